#include "backend/cpu/weights.h"

#include <cstring>
#include <functional>

#include "base/check.h"
#include "base/rng.h"

namespace conclave::backend {
namespace {

using kernels::PackedFormat;
using kernels::PackedMatrix;
using kernels::Range;
using kernels::SourceFormat;
using kernels::SourceMatrix;
using model::Weight;

constexpr std::size_t kAlignment = 4096;

// Where one packed matrix comes from and goes to.
struct Planned {
  LayerId layer;
  Weight weight = Weight::kQ;
  ExpertId expert;
  Range rows, cols;
  bool transposed = false;
  PackedFormat format = PackedFormat::kF32;
  std::size_t offset = 0;  // in the arena
  std::size_t bytes = 0;

  std::size_t lanes() const { return transposed ? cols.size() : rows.size(); }
  std::size_t inputs() const { return transposed ? rows.size() : cols.size(); }
  std::size_t block_offset() const {
    const std::size_t begin = transposed ? rows.begin : cols.begin;
    return format == PackedFormat::kFp8 ? begin % kernels::kFp8BlockSize : 0;
  }
};

// Walks the model once, in an order that depends on the configuration alone, giving every matrix
// its place. Used to size the arena, to fill it and to find things in it again.
class Planner {
 public:
  Planner(const model::ModelSource& source, const model::Slice& slice, model::WeightsMode mode)
      : source_(source), config_(source.config()), slice_(slice), mode_(mode) {}

  // `see` is called with each planned matrix. An empty `arena` only counts: views are empty then.
  CpuWeights walk(std::span<std::byte> arena, const std::function<void(const Planned&)>& see) {
    arena_ = arena;
    see_ = see;
    CpuWeights weights;
    if (slice_.embedding) weights.embedding = embedding();
    for (std::size_t l = 0; l < config_.n_layers; ++l) {
      weights.layers.push_back(layer(LayerId{static_cast<std::uint16_t>(l)}));
    }
    weights.head = matrix({}, Weight::kHead);
    return weights;
  }

  std::size_t bytes() const { return end_; }
  std::uint64_t key() const { return key_ == 0 ? 1 : key_; }
  std::size_t embedding_offset() const { return 0; }

 private:
  std::size_t reserve(std::size_t bytes) {
    const std::size_t offset = end_;
    end_ = (end_ + bytes + kAlignment - 1) / kAlignment * kAlignment;
    key_ = hash_combine(key_, end_);
    return offset;
  }

  std::span<const std::byte> view(std::size_t offset, std::size_t bytes) const {
    if (offset + bytes > arena_.size()) return {};  // only counting, or found too small at the end
    return arena_.subspan(offset, bytes);
  }

  // Read one row at a time, so it stays row-major, its bytes as in the file.
  SourceMatrix embedding() {
    SourceMatrix m = source_.matrix({}, Weight::kEmbedding);
    CHECK(m.scales.empty());
    const std::size_t offset = reserve(m.weights.size());
    m.weights = view(offset, m.weights.size());
    return m;
  }

  PackedMatrix place(Planned planned, SourceFormat format) {
    // A transposed INT4 matrix would have its scales across the groups: kept without rounding.
    const bool as_float = planned.transposed && format == SourceFormat::kInt4Group;
    planned.format = as_float ? PackedFormat::kF32 : kept_format(planned.weight, format, mode_);
    for (const std::size_t part : {static_cast<std::size_t>(planned.format), planned.rows.begin,
                                   planned.rows.end, planned.cols.begin, planned.cols.end}) {
      key_ = hash_combine(key_, part);
    }
    planned.bytes = kernels::packed_bytes(planned.format, planned.lanes(), planned.inputs(),
                                          planned.block_offset());
    planned.offset = reserve(planned.bytes);
    if (see_) see_(planned);
    return {planned.format, planned.lanes(), planned.inputs(), planned.block_offset(),
            view(planned.offset, planned.bytes)};
  }

  PackedMatrix matrix(LayerId layer, Weight weight, ExpertId expert = {}) {
    const model::MatrixSlice part = slice_of(config_, slice_, weight);
    const SourceFormat format = source_.matrix(layer, weight, expert).format;
    return place(
        {.layer = layer, .weight = weight, .expert = expert, .rows = part.rows, .cols = part.cols},
        format);
  }

  // One head's share of kv_b: W_uk as its transpose, for the absorbed form, and W_uv as it is.
  PackedMatrix head_part(LayerId layer, std::size_t head, bool key) {
    const std::size_t width = config_.qk_nope_head_dim + config_.v_head_dim;
    const std::size_t begin = head * width + (key ? 0 : config_.qk_nope_head_dim);
    const std::size_t rows = key ? config_.qk_nope_head_dim : config_.v_head_dim;
    const SourceFormat format = source_.matrix(layer, Weight::kKvB).format;
    return place({.layer = layer,
                  .weight = Weight::kKvB,
                  .expert = {},
                  .rows = {begin, begin + rows},
                  .cols = {0, config_.kv_lora_rank},
                  .transposed = key},
                 format);
  }

  FfnWeights ffn(LayerId layer, Weight gate, Weight up, Weight down, ExpertId expert = {}) {
    return {matrix(layer, gate, expert), matrix(layer, up, expert), matrix(layer, down, expert)};
  }

  LayerWeights layer(LayerId id) {
    LayerWeights w;
    if (config_.q_lora_rank > 0) {
      w.q_a = matrix(id, Weight::kQA);
      w.q = matrix(id, Weight::kQB);
    } else {
      w.q = matrix(id, Weight::kQ);
    }
    w.kv_a = matrix(id, Weight::kKvA);
    for (std::size_t h = slice_.heads.begin; h < slice_.heads.end; ++h) {
      w.key_up.push_back(head_part(id, h, true));
      w.value_up.push_back(head_part(id, h, false));
    }
    w.o = matrix(id, Weight::kO);
    if (!config_.is_moe(id)) {
      w.dense = ffn(id, Weight::kGate, Weight::kUp, Weight::kDown);
      return w;
    }
    w.router = matrix(id, Weight::kRouter);
    if (config_.n_shared_experts > 0) {
      w.shared = ffn(id, Weight::kSharedGate, Weight::kSharedUp, Weight::kSharedDown);
    }
    for (std::size_t e = 0; e < config_.n_experts; ++e) {
      w.experts.push_back(ffn(id, Weight::kExpertGate, Weight::kExpertUp, Weight::kExpertDown,
                              ExpertId{static_cast<std::uint16_t>(e)}));
    }
    return w;
  }

  const model::ModelSource& source_;
  const model::ModelConfig& config_;
  const model::Slice& slice_;
  model::WeightsMode mode_;
  std::span<std::byte> arena_;
  std::function<void(const Planned&)> see_;
  std::size_t end_ = 0;
  std::uint64_t key_ = 0;
};

void load_norms(const model::ModelSource& source, CpuWeights& weights) {
  const model::ModelConfig& config = source.config();
  for (std::size_t l = 0; l < config.n_layers; ++l) {
    const LayerId id{static_cast<std::uint16_t>(l)};
    LayerWeights& w = weights.layers[l];
    w.input_norm = source.norm(id, model::Norm::kInput);
    w.post_attention_norm = source.norm(id, model::Norm::kPostAttention);
    if (config.q_lora_rank > 0) w.q_a_norm = source.norm(id, model::Norm::kQA);
    w.kv_a_norm = source.norm(id, model::Norm::kKvA);
    if (config.is_moe(id)) w.router_bias = source.router_bias(id);
  }
  weights.final_norm = source.norm({}, model::Norm::kFinal);
}

void pack_matrix(const SourceMatrix& source, const Planned& planned, std::byte* base,
                 ThreadPool& pool) {
  const std::size_t bytes =
      kernels::panel_bytes(planned.format, planned.inputs(), planned.block_offset());
  const std::size_t panels = bytes == 0 ? 0 : planned.bytes / bytes;
  pool.parallel_for(panels, [&](std::size_t panel, std::size_t) {
    kernels::pack_panel(source, planned.rows, planned.cols, planned.transposed, planned.format,
                        panel, {base + planned.offset + panel * bytes, bytes});
  });
}

// Whether `next` reads the same tensor again, so that its pages are still needed.
bool same_tensor(const Planned& a, const Planned& b) {
  return a.layer == b.layer && a.weight == b.weight && a.expert == b.expert;
}

}  // namespace

std::size_t planned_bytes(const model::ModelSource& source, const model::Slice& slice,
                          model::WeightsMode mode) {
  Planner planner(source, slice, mode);
  (void)planner.walk({}, nullptr);
  return planner.bytes();
}

Result<CpuWeights> load_weights(const model::ModelSource& source, const model::Slice& slice,
                                model::WeightsMode mode, WeightArena& arena, ThreadPool& pool,
                                const LoadProgress& progress) {
  std::vector<Planned> plan;
  Planner planner(source, slice, mode);
  std::byte* base = arena.bytes().data();
  CpuWeights weights =
      planner.walk(arena.bytes(), [&plan](const Planned& p) { plan.push_back(p); });
  if (planner.bytes() > arena.bytes().size()) {
    return invalid_input(source.dir().string() + ": has changed since its memory was reserved");
  }
  load_norms(source, weights);
  const std::uint64_t key = hash_combine(planner.key(), source.fingerprint()) | 1u;
  if (arena.filled_key() == key) return weights;

  arena.set_filled_key(0);
  if (slice.embedding) {
    TRY(source.check({}, Weight::kEmbedding));
    const SourceMatrix from = source.matrix({}, Weight::kEmbedding);
    std::memcpy(base + planner.embedding_offset(), from.weights.data(), from.weights.size());
    source.drop(from);
  }
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const Planned& planned = plan[i];
    const SourceMatrix from = source.matrix(planned.layer, planned.weight, planned.expert);
    if (i == 0 || !same_tensor(plan[i - 1], planned)) {
      TRY(source.check(planned.layer, planned.weight, planned.expert));
    }
    pack_matrix(from, planned, base, pool);
    if (i + 1 == plan.size() || !same_tensor(planned, plan[i + 1])) source.drop(from);
    if (progress) progress(planned.offset + planned.bytes, planner.bytes());
  }
  arena.set_filled_key(key);
  return weights;
}

}  // namespace conclave::backend
