#include "model/table.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "model/shapes.h"

namespace conclave::model {
namespace {

using formats::DType;
using formats::Tensor;

constexpr std::array kPlainTypes = {DType::kBF16, DType::kF16, DType::kF32};

kernels::SourceFormat plain_format(DType dtype) {
  if (dtype == DType::kF32) return kernels::SourceFormat::kF32;
  return dtype == DType::kF16 ? kernels::SourceFormat::kF16 : kernels::SourceFormat::kBF16;
}

std::string list_of(std::span<const DType> dtypes) {
  std::string text;
  for (std::size_t i = 0; i < dtypes.size(); ++i) {
    if (i > 0) text += i + 1 == dtypes.size() ? " or " : ", ";
    text += formats::name(dtypes[i]);
  }
  return text;
}

class TableBuilder {
 public:
  TableBuilder(const Description& description, const formats::Checkpoint& checkpoint)
      : description_(description),
        config_(description.config),
        checkpoint_(checkpoint),
        taken_(checkpoint.tensors().size(), false) {}

  Result<TensorTable> build() {
    TensorTable table;
    table.embedding = TRY(take_plain({}, Weight::kEmbedding));
    table.tied_head = description_.tied_head && !(description_.own_head_wins && has_head());
    table.head = table.tied_head ? table.embedding : TRY(take_linear({}, Weight::kHead));
    table.final_norm = TRY(take_norm({}, Norm::kFinal));
    table.layers.resize(config_.n_layers);
    for (std::size_t i = 0; i < config_.n_layers; ++i) {
      const LayerId layer{static_cast<std::uint16_t>(i)};
      table.layers[i] = TRY(take_layer(layer));
    }
    table.ignored = TRY(sort_out_the_rest());
    return table;
  }

 private:
  using Shape = std::vector<std::size_t>;

  bool has_head() const {
    const std::string name = linear_name(description_, {}, Weight::kHead);
    return checkpoint_.find(name + ".weight") != nullptr ||
           checkpoint_.find(name + ".weight_packed") != nullptr;
  }

  Result<LayerTable> take_layer(LayerId layer) {
    LayerTable table;
    for (std::size_t i = 0; i < table.linears.size(); ++i) {
      const auto weight = static_cast<Weight>(i);
      if (!layer_has(config_, layer, weight)) continue;
      table.linears[i] = weight == Weight::kRouter ? TRY(take_plain(layer, weight))
                                                   : TRY(take_linear(layer, weight));
      if (!has_bias(config_, weight)) continue;
      table.biases[i] = TRY(take(bias_name(description_, layer, weight), kPlainTypes,
                                 {shape_of(config_, weight).rows}));
    }
    for (std::size_t i = 0; i < table.norms.size(); ++i) {
      const auto norm = static_cast<Norm>(i);
      if (layer_has(config_, norm)) table.norms[i] = TRY(take_norm(layer, norm));
    }
    if (config_.attention_sinks) {
      table.sinks = TRY(take(sinks_name(description_, layer), kPlainTypes, {config_.n_heads}));
    }
    if (!config_.is_moe(layer)) return table;
    if (config_.router == RouterKind::kSigmoidBiased) {
      table.router_bias =
          TRY(take(router_bias_name(description_, layer), kPlainTypes, {config_.n_experts}));
    }
    // MXFP4 experts are read as gpt-oss stacks them, and gpt-oss in no other form.
    if (config_.all_biases != (description_.quant == QuantMethod::kMxfp4)) {
      return unsupported("config.json: quantization_config: MXFP4 experts and gpt-oss go together");
    }
    if (description_.quant == QuantMethod::kMxfp4) {
      table.experts = TRY(take_mxfp4_experts(layer));
    } else if (checkpoint_.find(fused_gate_up_name(description_, layer)) != nullptr) {
      table.experts = TRY(take_fused_experts(layer));
    } else {
      table.experts = TRY(take_experts(layer));
    }
    TRY(check_formats(table));
    if (!has_bias(config_, Weight::kExpertUp)) return table;
    table.gate_up_bias = TRY(take(fused_gate_up_name(description_, layer) + "_bias", kPlainTypes,
                                  {config_.n_experts, 2 * config_.moe_intermediate_size}));
    table.down_bias = TRY(take(fused_down_name(description_, layer) + "_bias", kPlainTypes,
                               {config_.n_experts, config_.hidden_size}));
    return table;
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
      return Stacked{TRY(take(name + "_blocks", kBytes, {config_.n_experts, rows, groups, 16})),
                     TRY(take(name + "_scales", kBytes, {config_.n_experts, rows, groups}))};
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

  // Activations are rounded, or not, once for all of a layer's experts: which form they meet is
  // decided by the first.
  static Result<void> check_formats(const LayerTable& table) {
    for (std::size_t i = 0; i < table.experts.size(); ++i) {
      const bool is_down = i % 3 == 2;
      const Linear& first = table.experts[is_down ? 2 : 0];
      if (table.experts[i].matrix.format == first.matrix.format) continue;
      return unsupported(label_of(table.experts[i]) +
                         ": another format than the layer's other experts have");
    }
    return {};
  }

  Result<std::vector<Linear>> take_experts(LayerId layer) {
    std::vector<Linear> experts;
    experts.reserve(3 * config_.n_experts);
    for (std::size_t e = 0; e < config_.n_experts; ++e) {
      for (const Weight weight : {Weight::kExpertGate, Weight::kExpertUp, Weight::kExpertDown}) {
        experts.push_back(TRY(take_linear(layer, weight, ExpertId{static_cast<std::uint16_t>(e)})));
      }
    }
    return experts;
  }

  // gate_up [experts, 2 * width, hidden], gate rows first; down [experts, hidden, width].
  Result<std::vector<Linear>> take_fused_experts(LayerId layer) {
    const std::size_t width = config_.moe_intermediate_size;
    const std::size_t hidden = config_.hidden_size;
    const Tensor& gate_up = *TRY(take(fused_gate_up_name(description_, layer), kPlainTypes,
                                      {config_.n_experts, 2 * width, hidden}));
    const Tensor& down = *TRY(take(fused_down_name(description_, layer), kPlainTypes,
                                   {config_.n_experts, hidden, width}));
    const auto part = [](const Tensor& tensor, std::size_t index, std::size_t rows,
                         std::size_t cols) {
      const std::size_t size = rows * cols * formats::size_bytes(tensor.dtype);
      return Linear{
          &tensor,
          nullptr,
          nullptr,
          {plain_format(tensor.dtype), rows, cols, tensor.bytes.subspan(index * size, size), {}}};
    };
    std::vector<Linear> experts;
    experts.reserve(3 * config_.n_experts);
    for (std::size_t e = 0; e < config_.n_experts; ++e) {
      experts.push_back(part(gate_up, 2 * e, width, hidden));
      experts.push_back(part(gate_up, 2 * e + 1, width, hidden));
      experts.push_back(part(down, e, hidden, width));
    }
    return experts;
  }

  // Which format it is, the names of the tensors say. docs/models.md 5.1.
  Result<Linear> take_linear(LayerId layer, Weight weight, ExpertId expert = {}) {
    const std::string name = linear_name(description_, layer, weight, expert);
    if (checkpoint_.find(name + ".weight_packed") != nullptr) return take_int4(name, weight);
    const Tensor* plain = checkpoint_.find(name + ".weight");
    if (plain != nullptr && plain->dtype == DType::kF8E4M3) return take_fp8(name, weight);
    return take_plain(layer, weight, expert);
  }

  Result<Linear> take_plain(LayerId layer, Weight weight, ExpertId expert = {}) {
    const MatrixShape shape = shape_of(config_, weight);
    const Tensor* tensor = TRY(take(linear_name(description_, layer, weight, expert) + ".weight",
                                    kPlainTypes, {shape.rows, shape.cols}));
    return Linear{tensor,
                  nullptr,
                  nullptr,
                  {plain_format(tensor->dtype), shape.rows, shape.cols, tensor->bytes, {}}};
  }

  Result<Linear> take_int4(const std::string& name, Weight weight) {
    constexpr std::size_t kPerWord = 8;
    const MatrixShape shape = shape_of(config_, weight);
    const Tensor& packed = *checkpoint_.find(name + ".weight_packed");
    if (description_.quant != QuantMethod::kInt4Group) {
      return invalid_input(label_of(packed) +
                           ": INT4, but config.json has no compressed-tensors quantization_config");
    }
    // Whole groups only, also where columns are dealt out by head.
    const std::size_t unit = weight == Weight::kO ? config_.v_head_dim : shape.cols;
    if (unit % kernels::kGroup != 0) {
      return unsupported(label_of(packed) + ": INT4 with " + std::to_string(unit) +
                         " inputs, expected a multiple of 32");
    }
    Linear linear;
    linear.weights = TRY(take(name + ".weight_packed", std::array{DType::kI32},
                              {shape.rows, shape.cols / kPerWord}));
    linear.scales = TRY(take(name + ".weight_scale", std::array{DType::kBF16},
                             {shape.rows, shape.cols / kernels::kGroup}));
    if (checkpoint_.find(name + ".weight_shape") != nullptr) {
      linear.shape = TRY(take(name + ".weight_shape", std::array{DType::kI32, DType::kI64}, {2}));
    }
    linear.matrix = {kernels::SourceFormat::kInt4Group, shape.rows, shape.cols,
                     linear.weights->bytes, linear.scales->bytes};
    return linear;
  }

  Result<Linear> take_fp8(const std::string& name, Weight weight) {
    const MatrixShape shape = shape_of(config_, weight);
    if (description_.quant != QuantMethod::kFp8Block) {
      return invalid_input(label_of(*checkpoint_.find(name + ".weight")) +
                           ": F8_E4M3, but config.json has no fp8 quantization_config");
    }
    const auto blocks = [](std::size_t size) {
      return (size + kernels::kFp8BlockSize - 1) / kernels::kFp8BlockSize;
    };
    Linear linear;
    linear.weights =
        TRY(take(name + ".weight", std::array{DType::kF8E4M3}, {shape.rows, shape.cols}));
    linear.scales = TRY(take(name + ".weight_scale_inv", std::array{DType::kF32},
                             {blocks(shape.rows), blocks(shape.cols)}));
    linear.matrix = {kernels::SourceFormat::kFp8Block, shape.rows, shape.cols,
                     linear.weights->bytes, linear.scales->bytes};
    return linear;
  }

  Result<const Tensor*> take_norm(LayerId layer, Norm norm) {
    return take(norm_name(description_, layer, norm), kPlainTypes, {norm_size(config_, norm)});
  }

  Result<const Tensor*> take(const std::string& name, std::span<const DType> dtypes,
                             const Shape& shape) {
    const Tensor* tensor = checkpoint_.find(name);
    if (tensor == nullptr) {
      return invalid_input(table_of_contents() + ": " + name + ": missing, expected " +
                           list_of(dtypes) + " " + formats::shape_text(shape));
    }
    if (std::ranges::find(dtypes, tensor->dtype) == dtypes.end()) {
      return invalid_input(label_of(*tensor) + ": type " +
                           std::string(formats::name(tensor->dtype)) + ", expected " +
                           list_of(dtypes));
    }
    if (tensor->shape != shape) {
      return invalid_input(label_of(*tensor) + ": shape " + formats::shape_text(tensor->shape) +
                           ", expected " + formats::shape_text(shape));
    }
    taken_[static_cast<std::size_t>(tensor - checkpoint_.tensors().data())] = true;
    return tensor;
  }

  // The file that would have named a missing tensor.
  std::string table_of_contents() const {
    std::string single = "model.safetensors";
    const std::span<const Tensor> tensors = checkpoint_.tensors();
    if (tensors.empty() || tensors.front().file->path().filename() == single) return single;
    return "model.safetensors.index.json";
  }

  // What nobody took is either on the named list or a sign that this is another model.
  Result<std::vector<std::string>> sort_out_the_rest() const {
    std::vector<std::string> ignored;
    const Tensor* first = nullptr;
    std::size_t n_unexpected = 0;
    for (std::size_t i = 0; i < taken_.size(); ++i) {
      const Tensor& tensor = checkpoint_.tensors()[i];
      if (taken_[i]) continue;
      if (is_ignored(description_, tensor.name)) {
        ignored.push_back(tensor.name);
        continue;
      }
      if (n_unexpected++ == 0) first = &tensor;
    }
    if (first == nullptr) return ignored;
    return invalid_input(
        label_of(*first) + ": " + std::string(formats::name(first->dtype)) + " " +
        formats::shape_text(first->shape) + " is not a tensor of " + config_.architecture +
        " with this config.json (unexpected tensors: " + std::to_string(n_unexpected) + ")");
  }

  const Description& description_;
  const ModelConfig& config_;
  const formats::Checkpoint& checkpoint_;
  std::vector<bool> taken_;  // by position in checkpoint_.tensors()
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
    for (const Tensor* more : {layer.sinks, layer.gate_up_bias, layer.down_bias}) {
      if (more != nullptr) found.push_back(more);
    }
  }
  return found;
}

Result<TensorTable> build_table(const Description& description,
                                const formats::Checkpoint& checkpoint) {
  return TableBuilder(description, checkpoint).build();
}

}  // namespace conclave::model
