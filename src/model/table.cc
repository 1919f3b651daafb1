#include "model/table.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "model/matrices.h"
#include "model/shapes.h"

namespace conclave::model {
namespace {

using formats::DType;
using formats::Tensor;

constexpr std::array kExpertWeights = {Weight::kExpertGate, Weight::kExpertUp, Weight::kExpertDown};

class TableBuilder {
 public:
  TableBuilder(const Description& description, const formats::Checkpoint& checkpoint)
      : description_(description),
        config_(description.config),
        tensors_(checkpoint),
        matrices_(tensors_, description) {}

  Result<TensorTable> build() {
    TensorTable table;
    table.embedding = TRY(take_linear({}, Weight::kEmbedding));
    const bool has_head = matrices_.has(linear_name(description_, {}, Weight::kHead));
    table.tied_head = description_.tied_head && !(description_.own_head_wins && has_head);
    table.head = table.tied_head ? table.embedding : TRY(take_linear({}, Weight::kHead));
    table.final_norm = TRY(take_norm({}, Norm::kFinal));
    table.layers.resize(config_.n_layers);
    for (std::size_t i = 0; i < config_.n_layers; ++i) {
      const LayerId layer{static_cast<std::uint16_t>(i)};
      table.layers[i] = TRY(take_layer(layer));
    }
    table.heads = std::move(heads_);
    table.ignored = TRY(tensors_.sort_out_the_rest(description_));
    return table;
  }

 private:
  Result<LayerTable> take_layer(LayerId layer) {
    LayerTable table;
    for (std::size_t i = 0; i < table.linears.size(); ++i) {
      const auto weight = static_cast<Weight>(i);
      if (!layer_has(config_, layer, weight)) continue;
      table.linears[i] = TRY(take_linear(layer, weight));
      if (!has_bias(config_, weight)) continue;
      table.biases[i] = TRY(tensors_.take(bias_name(description_, layer, weight), kPlainTypes,
                                          {shape_of(config_, weight).rows}));
    }
    for (std::size_t i = 0; i < table.norms.size(); ++i) {
      const auto norm = static_cast<Norm>(i);
      if (layer_has(config_, norm)) table.norms[i] = TRY(take_norm(layer, norm));
    }
    if (config_.attention_sinks) {
      table.sinks =
          TRY(tensors_.take(sinks_name(description_, layer), kPlainTypes, {config_.n_heads}));
    }
    if (!config_.is_moe(layer)) return table;
    if (config_.router == RouterKind::kSigmoidBiased) {
      table.router_bias = TRY(
          tensors_.take(router_bias_name(description_, layer), kPlainTypes, {config_.n_experts}));
    }
    TRY(take_all_experts(layer, table));
    TRY(check_formats(table));
    if (has_bias(config_, Weight::kExpertUp)) TRY(take_expert_biases(layer, table));
    return table;
  }

  Result<void> take_all_experts(LayerId layer, LayerTable& table) {
    if (has_stacks(layer)) {
      table.experts = TRY(take_stacked_experts(layer));
      return {};
    }
    // MXFP4 experts are read as gpt-oss stacks them, and gpt-oss in no other form.
    if (config_.all_biases != (description_.quantization.method == QuantMethod::kMxfp4)) {
      return unsupported("config.json: quantization_config: MXFP4 experts and gpt-oss go together");
    }
    if (description_.quantization.method == QuantMethod::kMxfp4) {
      table.experts = TRY(take_mxfp4_experts(layer));
    } else if (tensors_.find(fused_gate_up_name(description_, layer)) != nullptr) {
      table.experts = TRY(take_fused_experts(layer));
    } else {
      table.experts = TRY(take_experts(layer));
    }
    return {};
  }

  // In MLX's files and GGUF's all experts of a layer are one tensor for each of the three.
  std::string stack_name(LayerId layer, std::size_t part) const {
    constexpr std::array<std::string_view, 3> kModules = {"gate_proj", "up_proj", "down_proj"};
    const std::string module(kModules[part]);
    const std::string name = in_moe_block(description_, layer, "experts." + module);
    if (matrices_.has(name)) return name;
    return in_moe_block(description_, layer, "switch_mlp." + module);
  }

  // GGUF and MLX have nothing else but, of old, each expert by itself: what lacks is then a stack.
  bool has_stacks(LayerId layer) const {
    if (matrices_.has(stack_name(layer, 0))) return true;
    const bool others = tensors_.is_gguf() || description_.quantization.method == QuantMethod::kMlx;
    return others && tensors_.find(fused_gate_up_name(description_, layer)) == nullptr &&
           !matrices_.has(linear_name(description_, layer, Weight::kExpertGate));
  }

  Result<std::vector<Linear>> take_stacked_experts(LayerId layer) {
    std::array<Linear, 3> stacks;
    std::array<std::size_t, 3> rows{};
    for (std::size_t part = 0; part < 3; ++part) {
      const MatrixShape shape = shape_of(config_, kExpertWeights[part]);
      rows[part] = shape.rows;
      stacks[part] = TRY(matrices_.take(stack_name(layer, part), shape, config_.n_experts));
    }
    std::vector<Linear> experts;
    experts.reserve(3 * config_.n_experts);
    for (std::size_t e = 0; e < config_.n_experts; ++e) {
      for (std::size_t part = 0; part < 3; ++part) {
        experts.push_back(part_of_stack(stacks[part], e, rows[part]));
      }
    }
    return experts;
  }

  Result<void> take_expert_biases(LayerId layer, LayerTable& table) {
    const std::string fused = fused_gate_up_name(description_, layer) + "_bias";
    if (tensors_.find(fused) == nullptr && matrices_.has(stack_name(layer, 0))) {
      for (std::size_t part = 0; part < 3; ++part) {
        table.expert_biases[part] =
            TRY(tensors_.take(stack_name(layer, part) + ".bias", kPlainTypes,
                              {config_.n_experts, shape_of(config_, kExpertWeights[part]).rows}));
      }
      return {};
    }
    table.biases_in_turns = true;
    table.expert_biases[0] = TRY(
        tensors_.take(fused, kPlainTypes, {config_.n_experts, 2 * config_.moe_intermediate_size}));
    table.expert_biases[1] = table.expert_biases[0];
    table.expert_biases[2] =
        TRY(tensors_.take(fused_down_name(description_, layer) + "_bias", kPlainTypes,
                          {config_.n_experts, config_.hidden_size}));
    return {};
  }

  // Blocks U8 [experts, rows, inputs / 32, 16], scales U8 [experts, rows, inputs / 32]; the rows of
  // gate and up take turns. docs/models.md 4.3, 5.4.
  Result<std::vector<Linear>> take_mxfp4_experts(LayerId layer) {
    const std::size_t width = config_.moe_intermediate_size;
    const std::size_t hidden = config_.hidden_size;
    if (width % kernels::kGroup != 0 || hidden % kernels::kGroup != 0) {
      return unsupported(fused_down_name(description_, layer) + ": MXFP4 with " +
                         std::to_string(hidden) + " and " + std::to_string(width) +
                         " inputs, expected multiples of 32");
    }
    struct Stacked {
      const Tensor* blocks;
      const Tensor* scales;
    };
    const auto take_stacked = [&](const std::string& name, std::size_t rows,
                                  std::size_t cols) -> Result<Stacked> {
      const std::size_t groups = cols / kernels::kGroup;
      constexpr std::array kBytes = {DType::kU8};
      return Stacked{
          TRY(tensors_.take(name + "_blocks", kBytes, {config_.n_experts, rows, groups, 16})),
          TRY(tensors_.take(name + "_scales", kBytes, {config_.n_experts, rows, groups}))};
    };
    const Stacked gate_up =
        TRY(take_stacked(fused_gate_up_name(description_, layer), 2 * width, hidden));
    const Stacked down = TRY(take_stacked(fused_down_name(description_, layer), hidden, width));
    // `rows` rows from `first` on, every `step`-th.
    const auto part = [](const Stacked& from, std::size_t first, std::size_t rows, std::size_t cols,
                         std::size_t step) {
      const std::size_t count = (rows - 1) * step + 1;
      const std::size_t row_bytes = cols / 2;
      const std::size_t row_scales = cols / kernels::kGroup;
      return Linear{from.blocks,
                    from.scales,
                    nullptr,
                    {kernels::SourceFormat::kMxfp4, rows, cols,
                     from.blocks->bytes.subspan(first * row_bytes, count * row_bytes),
                     from.scales->bytes.subspan(first * row_scales, count * row_scales), step}};
    };
    std::vector<Linear> experts;
    experts.reserve(3 * config_.n_experts);
    for (std::size_t e = 0; e < config_.n_experts; ++e) {
      experts.push_back(part(gate_up, 2 * width * e, width, hidden, 2));
      experts.push_back(part(gate_up, 2 * width * e + 1, width, hidden, 2));
      experts.push_back(part(down, hidden * e, hidden, width, 1));
    }
    return experts;
  }

  // Whether activations are rounded is decided once for all gates of a layer's experts, and once
  // for all their ups.
  static bool is_integer(const Linear& linear) {
    return kernels::is_integer(kernels::native_format(linear.matrix.format));
  }
  static Result<void> check_formats(const LayerTable& table) {
    for (std::size_t i = 0; i < table.experts.size(); ++i) {
      if (is_integer(table.experts[i]) == is_integer(table.experts[i % 3])) continue;
      return unsupported(label_of(table.experts[i]) +
                         ": plain and quantised experts in one layer, expected one or the other");
    }
    return {};
  }

  Result<std::vector<Linear>> take_experts(LayerId layer) {
    std::vector<Linear> experts;
    experts.reserve(3 * config_.n_experts);
    for (std::size_t e = 0; e < config_.n_experts; ++e) {
      for (const Weight weight : kExpertWeights) {
        experts.push_back(TRY(take_linear(layer, weight, ExpertId{static_cast<std::uint16_t>(e)})));
      }
    }
    return experts;
  }

  // gate_up [experts, 2 * width, hidden], gate rows first; down [experts, hidden, width].
  Result<std::vector<Linear>> take_fused_experts(LayerId layer) {
    const std::size_t width = config_.moe_intermediate_size;
    const std::size_t hidden = config_.hidden_size;
    const Linear gate_up = TRY(matrices_.take_plain(fused_gate_up_name(description_, layer),
                                                    {2 * width, hidden}, config_.n_experts));
    const Linear down =
        TRY(matrices_.take_plain(down_beside_fused(layer), {hidden, width}, config_.n_experts));
    std::vector<Linear> experts;
    experts.reserve(3 * config_.n_experts);
    for (std::size_t e = 0; e < config_.n_experts; ++e) {
      experts.push_back(part_of_stack(gate_up, 2 * e, width));
      experts.push_back(part_of_stack(gate_up, 2 * e + 1, width));
      experts.push_back(part_of_stack(down, e, hidden));
    }
    return experts;
  }

  // GGUF that fuses gate and up leaves down as it is elsewhere.
  std::string down_beside_fused(LayerId layer) const {
    const std::string stack = stack_name(layer, 2);
    return matrices_.has(stack) ? stack + ".weight" : fused_down_name(description_, layer);
  }

  Result<Linear> take_linear(LayerId layer, Weight weight, ExpertId expert = {}) {
    if (weight == Weight::kKvB && matrices_.has(split_kv_name(description_, layer, true))) {
      return take_split_kv(layer);
    }
    return matrices_.take(linear_name(description_, layer, weight, expert),
                          shape_of(config_, weight));
  }

  // W_uk, transposed head by head, and W_uv. docs/models.md 5.3, 5.7
  Result<Linear> take_split_kv(LayerId layer) {
    const Linear key_up =
        TRY(matrices_.take(split_kv_name(description_, layer, true),
                           {config_.kv_lora_rank, config_.qk_nope_head_dim}, config_.n_heads));
    const Linear value_up =
        TRY(matrices_.take(split_kv_name(description_, layer, false),
                           {config_.v_head_dim, config_.kv_lora_rank}, config_.n_heads));
    tensors_.leave(linear_name(description_, layer, Weight::kKvB) + ".weight");  // the same again
    heads_.push_back(std::make_unique<kernels::HeadMatrices>());
    return join_heads(key_up, value_up, config_, *heads_.back());
  }

  Result<const Tensor*> take_norm(LayerId layer, Norm norm) {
    return tensors_.take(norm_name(description_, layer, norm), kPlainTypes,
                         {norm_size(config_, norm)});
  }

  const Description& description_;
  const ModelConfig& config_;
  TensorTaker tensors_;
  MatrixTaker matrices_;
  std::vector<std::unique_ptr<kernels::HeadMatrices>> heads_;
};

}  // namespace

const Linear& TensorTable::linear(LayerId layer, Weight weight, ExpertId expert) const {
  if (weight == Weight::kEmbedding) return embedding;
  if (weight == Weight::kHead) return head;
  CHECK(layer.value < layers.size());
  const LayerTable& table = layers[layer.value];
  if (!is_expert(weight)) {
    const Linear& found = table.linears[static_cast<std::size_t>(weight)];
    CHECK(found.weights != nullptr);
    return found;
  }
  const std::size_t part =
      static_cast<std::size_t>(weight) - static_cast<std::size_t>(Weight::kExpertGate);
  CHECK(expert.value < table.experts.size() / 3);
  return table.experts[expert.value * std::size_t{3} + part];
}

std::vector<const Tensor*> LayerTable::expert_bias_tensors() const {
  std::vector<const Tensor*> found;
  for (const Tensor* bias : expert_biases) {
    if (bias != nullptr && (found.empty() || found.back() != bias)) found.push_back(bias);
  }
  return found;
}

std::vector<const Tensor*> TensorTable::vectors() const {
  std::vector<const Tensor*> found = {final_norm};
  for (const LayerTable& layer : layers) {
    for (const Tensor* norm : layer.norms) {
      if (norm != nullptr) found.push_back(norm);
    }
    if (layer.router_bias != nullptr) found.push_back(layer.router_bias);
    for (const Tensor* bias : layer.biases) {
      if (bias != nullptr) found.push_back(bias);
    }
    if (layer.sinks != nullptr) found.push_back(layer.sinks);
    for (const Tensor* bias : layer.expert_bias_tensors()) found.push_back(bias);
  }
  return found;
}

Result<TensorTable> build_table(const Description& description,
                                const formats::Checkpoint& checkpoint) {
  return TableBuilder(description, checkpoint).build();
}

}  // namespace conclave::model
