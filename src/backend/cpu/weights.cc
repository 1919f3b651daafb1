#include "backend/cpu/weights.h"

#include <array>
#include <utility>

#include "base/check.h"
#include "base/rng.h"

namespace conclave::backend {
namespace {

using kernels::PackedFormat;
using kernels::PackedMatrix;
using kernels::SourceMatrix;
using model::Weight;

constexpr std::size_t kAlignment = 4096;

FfnWeights place_ffn(Layout& layout, const model::Slice& slice, LayerId layer,
                     const std::array<Weight, 3>& weights, ExpertId expert = {}) {
  const auto place = [&](Weight weight) {
    return layout.place(layer, weight, expert, slice_of(layout.config(), slice, weight));
  };
  FfnWeights ffn;
  ffn.gate = place(weights[0]);
  ffn.up = place(weights[1]);
  ffn.down = place(weights[2]);
  return ffn;
}

// One head's share of kv_b: W_uk as its transpose, for the absorbed form, and W_uv as it is.
PackedMatrix place_head(Layout& layout, LayerId layer, std::size_t head, bool key) {
  const model::ModelConfig& config = layout.config();
  const std::size_t width = config.qk_nope_head_dim + config.v_head_dim;
  const std::size_t begin = head * width + (key ? 0 : config.qk_nope_head_dim);
  const std::size_t rows = key ? config.qk_nope_head_dim : config.v_head_dim;
  return layout.place(layer, Weight::kKvB, {}, {{begin, begin + rows}, {0, config.kv_lora_rank}},
                      /*transposed=*/key);
}

SliceLayer place_slice_layer(Layout& layout, const model::Slice& slice, LayerId id) {
  const model::ModelConfig& config = layout.config();
  const auto place = [&](Weight weight) {
    return layout.place(id, weight, {}, slice_of(config, slice, weight));
  };
  SliceLayer w;
  if (!model::contains(slice.layers, id.value)) {  // as wide as nothing
    w.experts.resize(config.n_experts);
    return w;
  }
  w.q = place(config.q_lora_rank > 0 ? Weight::kQB : Weight::kQ);
  if (!config.is_grouped()) {
    for (std::size_t h = slice.heads.begin; h < slice.heads.end; ++h) {
      w.key_up.push_back(place_head(layout, id, h, true));
      w.value_up.push_back(place_head(layout, id, h, false));
    }
  }
  w.o = place(Weight::kO);
  if (!config.is_moe(id)) {
    w.dense = place_ffn(layout, slice, id, {Weight::kGate, Weight::kUp, Weight::kDown});
    return w;
  }
  if (config.n_shared_experts > 0) {
    w.shared =
        place_ffn(layout, slice, id, {Weight::kSharedGate, Weight::kSharedUp, Weight::kSharedDown});
  }
  for (std::size_t e = 0; e < config.n_experts; ++e) {
    const ExpertId expert{static_cast<std::uint16_t>(e)};
    if (!slice.holds(id, expert)) {
      w.experts.emplace_back();  // as wide as nothing
      continue;
    }
    w.experts.push_back(place_ffn(
        layout, slice, id, {Weight::kExpertGate, Weight::kExpertUp, Weight::kExpertDown}, expert));
  }
  return w;
}

LayerId layer_id(std::size_t layer) { return LayerId{static_cast<std::uint16_t>(layer)}; }

void read_norms(const model::ModelSource& source, CommonWeights& weights) {
  const model::ModelConfig& config = source.config();
  for (std::size_t l = 0; l < config.n_layers; ++l) {
    const LayerId id = layer_id(l);
    CommonLayer& w = weights.layers[l];
    w.input_norm = source.norm(id, model::Norm::kInput);
    w.post_attention_norm = source.norm(id, model::Norm::kPostAttention);
    if (config.q_lora_rank > 0) w.q_a_norm = source.norm(id, model::Norm::kQA);
    if (!config.is_grouped()) w.kv_a_norm = source.norm(id, model::Norm::kKvA);
    if (config.qk_norm) {
      w.q_norm = source.norm(id, model::Norm::kQ);
      w.k_norm = source.norm(id, model::Norm::kK);
    }
    if (config.is_grouped()) {
      w.q_bias = source.bias(id, Weight::kQ);
      w.k_bias = source.bias(id, Weight::kK);
      w.v_bias = source.bias(id, Weight::kV);
      w.sinks = source.sinks(id);
    }
    if (!config.is_moe(id)) continue;
    w.router_bias = source.router_bias(id);
    w.router_logit_bias = source.bias(id, Weight::kRouter);
  }
  weights.final_norm = source.norm({}, model::Norm::kFinal);
}

// The part of a bias that belongs to some rows of its matrix.
std::vector<float> part_of(std::vector<float> bias, model::Range rows) {
  if (bias.empty()) return bias;
  return {bias.begin() + static_cast<std::ptrdiff_t>(rows.begin),
          bias.begin() + static_cast<std::ptrdiff_t>(rows.end)};
}

// Biases of outputs that several slices add up count where the first part is.
void read_biases(const model::ModelSource& source, const model::Slice& slice,
                 SliceWeights& weights) {
  const model::ModelConfig& config = source.config();
  if (!config.all_biases) return;
  const model::Range columns = slice.expert_columns;
  for (std::size_t l = 0; l < config.n_layers; ++l) {
    SliceLayer& w = weights.layers[l];
    const bool has_first_head = w.q.rows > 0 && slice.heads.begin == 0;
    if (has_first_head) w.o_bias = source.bias(layer_id(l), Weight::kO);
    for (std::size_t e = 0; e < w.experts.size(); ++e) {
      FfnWeights& ffn = w.experts[e];
      if (ffn.gate.rows == 0) continue;
      const ExpertId expert{static_cast<std::uint16_t>(e)};
      const auto bias = [&](Weight weight) { return source.bias(layer_id(l), weight, expert); };
      ffn.gate_bias = part_of(bias(Weight::kExpertGate), columns);
      ffn.up_bias = part_of(bias(Weight::kExpertUp), columns);
      if (columns.begin == 0) ffn.down_bias = bias(Weight::kExpertDown);
    }
  }
}

Result<void> check_filled(const Layout& layout, const WeightArena& arena, std::string_view what) {
  if (layout.bytes() <= arena.bytes().size() && arena.filled_key() == layout.key()) return {};
  return invalid_input(layout.source().dir().string() + ": the memory for " + std::string(what) +
                       " does not hold them as they are now; load it first");
}

}  // namespace

Layout::Layout(const model::ModelSource& source, model::WeightsMode mode, std::string_view kind,
               std::span<std::byte> arena)
    : source_(source), mode_(mode), arena_(arena) {
  for (const char c : kind) key_ = hash_combine(key_, static_cast<unsigned char>(c));
}

std::span<const std::byte> Layout::add(const PackedPart& part) {
  const std::size_t offset = end_;
  const std::size_t bytes = part.size_bytes();
  end_ = (end_ + bytes + kAlignment - 1) / kAlignment * kAlignment;
  for (const std::size_t value :
       {std::size_t{part.layer.value}, static_cast<std::size_t>(part.weight),
        std::size_t{part.expert.value}, static_cast<std::size_t>(part.format), part.rows.begin,
        part.rows.end, part.cols.begin, part.cols.end, end_}) {
    key_ = hash_combine(key_, value);
  }
  placed_.push_back({part, offset});
  if (offset + bytes > arena_.size()) return {};  // only counting, or found too small at the end
  return arena_.subspan(offset, bytes);
}

PackedMatrix Layout::place(LayerId layer, Weight weight, ExpertId expert,
                           const model::MatrixSlice& slice, bool transposed) {
  PackedPart part{layer, weight, expert, slice.rows, slice.cols, transposed, PackedFormat::kF32};
  const auto stored = model::stored_part(
      {source_.matrix(layer, weight, expert), slice.rows, slice.cols, transposed});
  CHECK(stored);
  part.format = kept_format(weight, *stored, mode_);
  return {part.format, part.lanes(), part.inputs(), part.block_offset(), add(part)};
}

// Read one row at a time, so plain numbers stay row-major, as in the file.
Embedding Layout::place_embedding() {
  SourceMatrix m = source_.matrix({}, Weight::kEmbedding);
  PackedPart part;
  part.weight = Weight::kEmbedding;
  part.rows = {0, m.rows};
  part.cols = {0, m.cols};
  part.format = kernels::native_format(m.format);
  const std::span<const std::byte> bytes = add(part);
  if (!part.in_rows()) return {{}, {part.format, m.rows, m.cols, 0, bytes}};
  m.weights = bytes;
  return {m, {}};
}

void Embedding::read(std::size_t token, std::span<float> out) const {
  if (panels.rows > 0) return kernels::unpack_row(panels, token, out);
  kernels::dequantize_row(rows, token, 0, out);
}

std::uint64_t Layout::key() const { return hash_combine(key_, source_.fingerprint()) | 1u; }

Layout common_layout(const model::ModelSource& source, model::WeightsMode mode,
                     std::span<std::byte> arena) {
  return Layout(source, mode, "common", arena);
}

Layout slice_layout(const model::ModelSource& source, model::WeightsMode mode,
                    std::span<std::byte> arena) {
  return Layout(source, mode, "slice", arena);
}

CommonWeights place_common(Layout& layout, bool embedding) {
  const model::ModelConfig& config = layout.config();
  const auto place = [&layout, &config](LayerId layer, Weight weight) {
    return layout.place(layer, weight, {}, slice_of(config, model::Slice{}, weight));
  };
  CommonWeights weights;
  if (embedding) weights.embedding = layout.place_embedding();
  for (std::size_t l = 0; l < config.n_layers; ++l) {
    CommonLayer& w = weights.layers.emplace_back();
    if (config.q_lora_rank > 0) w.q_a = place(layer_id(l), Weight::kQA);
    if (config.is_grouped()) {
      w.k = place(layer_id(l), Weight::kK);
      w.v = place(layer_id(l), Weight::kV);
    } else {
      w.kv_a = place(layer_id(l), Weight::kKvA);
    }
    if (config.is_moe(layer_id(l))) w.router = place(layer_id(l), Weight::kRouter);
  }
  return weights;
}

SliceWeights place_slice(Layout& layout, const model::Slice& slice) {
  SliceWeights weights;
  weights.heads = slice.heads;
  for (std::size_t l = 0; l < layout.config().n_layers; ++l) {
    weights.layers.push_back(place_slice_layer(layout, slice, layer_id(l)));
  }
  weights.head =
      layout.place({}, Weight::kHead, {}, slice_of(layout.config(), slice, Weight::kHead));
  return weights;
}

Result<CommonWeights> attach_common(const model::ModelSource& source, bool embedding,
                                    model::WeightsMode mode, const WeightArena& arena) {
  Layout layout = common_layout(source, mode, arena.bytes());
  CommonWeights weights = place_common(layout, embedding);
  TRY(check_filled(layout, arena, "what all slices need"));
  arena.use_huge_pages();
  read_norms(source, weights);
  return weights;
}

Result<SliceWeights> attach_slice(const model::ModelSource& source, const model::Slice& slice,
                                  model::WeightsMode mode, const WeightArena& arena) {
  Layout layout = slice_layout(source, mode, arena.bytes());
  SliceWeights weights = place_slice(layout, slice);
  TRY(check_filled(layout, arena, "a slice"));
  arena.use_huge_pages();
  read_biases(source, slice, weights);
  return weights;
}

}  // namespace conclave::backend
