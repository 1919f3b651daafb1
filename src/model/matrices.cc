#include "model/matrices.h"

#include <algorithm>
#include <optional>

#include "model/names.h"

namespace conclave::model {
namespace {

using formats::DType;
using formats::Tensor;
using kernels::SourceFormat;
using Shape = TensorTaker::Shape;

constexpr std::array kPlainOrBlocks = {DType::kBF16,  DType::kF16,      DType::kF32,  DType::kQ4_0,
                                       DType::kQ4_1,  DType::kQ5_0,     DType::kQ5_1, DType::kQ8_0,
                                       DType::kQ4K,   DType::kQ5K,      DType::kQ6K,  DType::kIq4Nl,
                                       DType::kIq4Xs, DType::kGgufMxfp4};

SourceFormat format_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return SourceFormat::kF32;
    case DType::kF16:
      return SourceFormat::kF16;
    case DType::kQ4_0:
      return SourceFormat::kQ4_0;
    case DType::kQ4_1:
      return SourceFormat::kQ4_1;
    case DType::kQ5_0:
      return SourceFormat::kQ5_0;
    case DType::kQ5_1:
      return SourceFormat::kQ5_1;
    case DType::kQ8_0:
      return SourceFormat::kQ8_0;
    case DType::kQ4K:
      return SourceFormat::kQ4K;
    case DType::kQ5K:
      return SourceFormat::kQ5K;
    case DType::kQ6K:
      return SourceFormat::kQ6K;
    case DType::kIq4Nl:
      return SourceFormat::kIq4Nl;
    case DType::kIq4Xs:
      return SourceFormat::kIq4Xs;
    case DType::kGgufMxfp4:
      return SourceFormat::kGgufMxfp4;
    default:
      return SourceFormat::kBF16;
  }
}

kernels::ScaleType scale_type_of(DType dtype) {
  if (dtype == DType::kF32) return kernels::ScaleType::kF32;
  return dtype == DType::kF16 ? kernels::ScaleType::kF16 : kernels::ScaleType::kBF16;
}

std::string list_of(std::span<const DType> dtypes) {
  std::string text;
  for (std::size_t i = 0; i < dtypes.size(); ++i) {
    if (i > 0) text += i + 1 == dtypes.size() ? " or " : ", ";
    text += formats::name(dtypes[i]);
  }
  return text;
}

Shape stacked_shape(std::size_t stacked, std::size_t rows, std::size_t cols) {
  if (stacked == 0) return {rows, cols};
  return {stacked, rows, cols};
}

std::size_t all_rows(std::size_t stacked, MatrixShape shape) {
  return std::max<std::size_t>(1, stacked) * shape.rows;
}

// How many inputs share a scale, from the shape of the scales.
Result<std::size_t> group_of(const Tensor& scales, std::size_t cols) {
  const std::size_t groups = scales.shape.empty() ? 0 : scales.shape.back();
  const std::size_t group = groups == 0 ? 0 : cols / groups;
  if (group == 0 || group * groups != cols || group % kernels::kGroup != 0) {
    return unsupported(label_of(scales) + ": shape " + formats::shape_text(scales.shape) + " for " +
                       std::to_string(cols) +
                       " inputs, expected a scale for each 32, 64, 128 or other multiple of 32");
  }
  return group;
}

// Bits of a code, from how many 32-bit words a row has; 4 where the tensor is no matrix, or no
// stack of them, at all: what it lacks is said when it is taken.
std::size_t bits_of(const Tensor& words, std::size_t cols, std::size_t stacked = 0) {
  const std::size_t dimensions = stacked == 0 ? 2 : 3;
  return words.shape.size() == dimensions ? words.shape.back() * 32 / cols : 4;
}

SourceFormat packed_format(const QuantScheme& scheme, DType scales) {
  const bool is_plain = scales == DType::kBF16 && !scheme.zero_points;
  if (scheme.bits == 4) return is_plain ? SourceFormat::kPackedBf16x4 : SourceFormat::kPacked4;
  return is_plain ? SourceFormat::kPackedBf16x8 : SourceFormat::kPacked8;
}

Result<void> expect_whole_groups(const Tensor& tensor, std::size_t cols) {
  if (cols % kernels::kGroup == 0) return {};
  return unsupported(label_of(tensor) + ": " + std::to_string(cols) +
                     " inputs, expected a multiple of 32");
}

}  // namespace

Result<const Tensor*> TensorTaker::take(const std::string& name, std::span<const DType> dtypes,
                                        const Shape& shape) {
  const Tensor* tensor = checkpoint_.find(name);
  if (tensor == nullptr) {
    return invalid_input(table_of_contents() + ": " + name + ": missing, expected " +
                         list_of(dtypes) + " " + formats::shape_text(shape));
  }
  if (std::ranges::find(dtypes, tensor->dtype) == dtypes.end()) {
    return invalid_input(label_of(*tensor) + ": type " + std::string(formats::name(tensor->dtype)) +
                         ", expected " + list_of(dtypes));
  }
  if (tensor->shape != shape) {
    return invalid_input(label_of(*tensor) + ": shape " + formats::shape_text(tensor->shape) +
                         ", expected " + formats::shape_text(shape));
  }
  mark(*tensor);
  return tensor;
}

void TensorTaker::leave(const std::string& name) {
  const Tensor* tensor = checkpoint_.find(name);
  if (tensor != nullptr) mark(*tensor);
}

void TensorTaker::mark(const Tensor& tensor) {
  taken_[static_cast<std::size_t>(&tensor - checkpoint_.tensors().data())] = true;
}

// The file that would have named a missing tensor.
std::string TensorTaker::table_of_contents() const {
  std::string single = "model.safetensors";
  const std::span<const Tensor> tensors = checkpoint_.tensors();
  if (tensors.empty()) return single;
  if (is_gguf()) return checkpoint_.files().front().file->path().filename().string();
  const bool is_single = tensors.front().file->path().filename() == single;
  return is_single ? single : "model.safetensors.index.json";
}

// What nobody took is either on the named list or a sign that this is another model.
Result<std::vector<std::string>> TensorTaker::sort_out_the_rest(
    const Description& description) const {
  std::vector<std::string> ignored;
  const Tensor* first = nullptr;
  std::size_t n_unexpected = 0;
  for (std::size_t i = 0; i < taken_.size(); ++i) {
    const Tensor& tensor = checkpoint_.tensors()[i];
    if (taken_[i]) continue;
    if (is_ignored(description, tensor.name)) {
      ignored.emplace_back(tensor.name_in_file());
      continue;
    }
    if (n_unexpected++ == 0) first = &tensor;
  }
  if (first == nullptr) return ignored;
  return invalid_input(label_of(*first) + ": " + std::string(formats::name(first->dtype)) + " " +
                       formats::shape_text(first->shape) + " is not a tensor of " +
                       description.config.architecture + " with this " +
                       (is_gguf() ? "metadata" : "config.json") +
                       " (unexpected tensors: " + std::to_string(n_unexpected) + ")");
}

bool MatrixTaker::has(const std::string& name) const {
  return tensors_.find(name + ".weight") != nullptr ||
         tensors_.find(name + ".weight_packed") != nullptr;
}

Result<Linear> MatrixTaker::take(const std::string& name, MatrixShape shape, std::size_t stacked) {
  if (stacked == 0) {
    if (tensors_.find(name + ".weight_packed") != nullptr) return take_packed(name, shape);
    const Tensor* plain = tensors_.find(name + ".weight");
    if (plain != nullptr && plain->dtype == DType::kF8E4M3) return take_fp8(name, shape);
  }
  if (tensors_.find(name + ".scales") != nullptr) return take_mlx(name, shape, stacked);
  return take_plain(name + ".weight", shape, stacked);
}

Result<Linear> MatrixTaker::take_plain(const std::string& name, MatrixShape shape,
                                       std::size_t stacked) {
  // Blocks are named as expected only where they can be.
  const std::span<const DType> types = kPlainOrBlocks;
  const Tensor* tensor =
      TRY(tensors_.take(name, tensors_.is_gguf() ? types : std::span<const DType>(kPlainTypes),
                        stacked_shape(stacked, shape.rows, shape.cols)));
  return Linear{
      tensor,
      nullptr,
      nullptr,
      {format_of(tensor->dtype), all_rows(stacked, shape), shape.cols, tensor->bytes, {}}};
}

// The scheme of config.json that the tensors' shapes follow; the first, for their errors, if none.
QuantScheme MatrixTaker::scheme_of(const Tensor& words, const Tensor* scales,
                                   std::size_t cols) const {
  const std::size_t bits = bits_of(words, cols);
  const std::size_t groups = scales == nullptr || scales->shape.empty() ? 0 : scales->shape.back();
  const auto fits = [&](const QuantScheme& scheme) {
    const std::size_t group = scheme.group == 0 ? cols : scheme.group;
    return scheme.bits == bits && groups * group == cols;
  };
  const std::vector<QuantScheme>& schemes = description_.quantization.schemes;
  const auto found = std::ranges::find_if(schemes, fits);
  QuantScheme scheme = found == schemes.end() ? schemes.front() : *found;
  if (scheme.group == 0) scheme.group = cols;
  return scheme;
}

// compressed-tensors pack-quantized. docs/models.md 5.1
Result<Linear> MatrixTaker::take_packed(const std::string& name, MatrixShape shape) {
  const Tensor& words = *tensors_.find(name + ".weight_packed");
  if (description_.quantization.method != QuantMethod::kInt4Group) {
    return invalid_input(label_of(words) +
                         ": INT4, but config.json has no compressed-tensors quantization_config");
  }
  TRY(expect_whole_groups(words, shape.cols));
  const Tensor* found_scales = tensors_.find(name + ".weight_scale");
  const QuantScheme scheme = scheme_of(words, found_scales, shape.cols);
  if ((scheme.bits != 4 && scheme.bits != 8) || shape.cols % scheme.group != 0) {
    return unsupported(label_of(words) + ": " + std::to_string(shape.cols) +
                       " inputs, expected groups of " + std::to_string(scheme.group));
  }
  // The form that Kimi's experts have; its scales are of one type.
  const bool as_kimi = scheme == QuantScheme{4, kernels::kGroup, false} &&
                       (found_scales == nullptr || found_scales->dtype != DType::kF16);
  const std::size_t per_word = 32 / scheme.bits;
  const std::size_t groups = shape.cols / scheme.group;
  constexpr std::array kKimiScales = {DType::kBF16};
  std::span<const DType> scale_types = kPlainTypes;
  if (as_kimi) scale_types = kKimiScales;
  Linear linear;
  linear.weights = TRY(tensors_.take(name + ".weight_packed", std::array{DType::kI32},
                                     {shape.rows, shape.cols / per_word}));
  linear.scales = TRY(tensors_.take(name + ".weight_scale", scale_types, {shape.rows, groups}));
  if (tensors_.find(name + ".weight_shape") != nullptr) {
    linear.shape =
        TRY(tensors_.take(name + ".weight_shape", std::array{DType::kI32, DType::kI64}, {2}));
  }
  linear.matrix = {as_kimi ? SourceFormat::kInt4Group : packed_format(scheme, linear.scales->dtype),
                   shape.rows, shape.cols, linear.weights->bytes, linear.scales->bytes};
  if (as_kimi) return linear;
  linear.matrix.group = scheme.group;
  linear.matrix.bits = static_cast<unsigned>(scheme.bits);
  linear.matrix.scale_type = scale_type_of(linear.scales->dtype);
  if (!scheme.zero_points) return linear;
  const Tensor* zeros = TRY(tensors_.take(name + ".weight_zero_point", std::array{DType::kI32},
                                          {(shape.rows + per_word - 1) / per_word, groups}));
  linear.matrix.offsets = zeros->bytes;
  return linear;
}

Result<Linear> MatrixTaker::take_fp8(const std::string& name, MatrixShape shape) {
  if (description_.quantization.method != QuantMethod::kFp8Block) {
    return invalid_input(label_of(*tensors_.find(name + ".weight")) +
                         ": F8_E4M3, but config.json has no fp8 quantization_config");
  }
  const auto blocks = [](std::size_t size) {
    return (size + kernels::kFp8BlockSize - 1) / kernels::kFp8BlockSize;
  };
  Linear linear;
  linear.weights =
      TRY(tensors_.take(name + ".weight", std::array{DType::kF8E4M3}, {shape.rows, shape.cols}));
  linear.scales = TRY(tensors_.take(name + ".weight_scale_inv", std::array{DType::kF32},
                                    {blocks(shape.rows), blocks(shape.cols)}));
  linear.matrix = {SourceFormat::kFp8Block, shape.rows, shape.cols, linear.weights->bytes,
                   linear.scales->bytes};
  return linear;
}

// Each module may have bits and groups of its own: the shapes say which. docs/models.md 5.3
Result<Linear> MatrixTaker::take_mlx(const std::string& name, MatrixShape shape,
                                     std::size_t stacked) {
  const Tensor& found_scales = *tensors_.find(name + ".scales");
  if (description_.quantization.method != QuantMethod::kMlx) {
    return invalid_input(label_of(found_scales) + ": config.json has no `quantization`");
  }
  if (found_scales.dtype == DType::kU8) return take_mlx_mxfp4(name, shape, stacked);
  const Tensor* words = tensors_.find(name + ".weight");
  if (words == nullptr) return take_plain(name + ".weight", shape, stacked);  // says what lacks
  const std::size_t bits = bits_of(*words, shape.cols, stacked);
  if (bits < 2 || bits > 8 || bits == 7) {
    return unsupported(label_of(*words) + ": shape " + formats::shape_text(words->shape) + " for " +
                       std::to_string(shape.cols) +
                       " inputs, expected 2, 3, 4, 5, 6 or 8 bits each");
  }
  const std::size_t group = TRY(group_of(found_scales, shape.cols));
  const std::vector<QuantScheme>& schemes = description_.quantization.schemes;
  if (std::ranges::find(schemes, QuantScheme{bits, group, false}) == schemes.end()) {
    return invalid_input(label_of(*words) + ": " + std::to_string(bits) + " bits in groups of " +
                         std::to_string(group) + ", which config.json says of no module");
  }
  const std::size_t groups = shape.cols / group;
  Linear linear;
  linear.weights = TRY(tensors_.take(name + ".weight", std::array{DType::kU32},
                                     stacked_shape(stacked, shape.rows, shape.cols * bits / 32)));
  linear.scales =
      TRY(tensors_.take(name + ".scales", kPlainTypes, stacked_shape(stacked, shape.rows, groups)));
  const Tensor* offsets = TRY(tensors_.take(name + ".biases", std::array{linear.scales->dtype},
                                            stacked_shape(stacked, shape.rows, groups)));
  linear.matrix = {bits <= 4 ? SourceFormat::kMlx4 : SourceFormat::kMlx8, all_rows(stacked, shape),
                   shape.cols, linear.weights->bytes, linear.scales->bytes};
  linear.matrix.offsets = offsets->bytes;
  linear.matrix.group = group;
  linear.matrix.bits = static_cast<unsigned>(bits);
  linear.matrix.scale_type = scale_type_of(linear.scales->dtype);
  return linear;
}

Result<Linear> MatrixTaker::take_mlx_mxfp4(const std::string& name, MatrixShape shape,
                                           std::size_t stacked) {
  const Tensor& found_scales = *tensors_.find(name + ".scales");
  TRY(expect_whole_groups(found_scales, shape.cols));
  Linear linear;
  linear.weights = TRY(tensors_.take(name + ".weight", std::array{DType::kU32},
                                     stacked_shape(stacked, shape.rows, shape.cols / 8)));
  linear.scales =
      TRY(tensors_.take(name + ".scales", std::array{DType::kU8},
                        stacked_shape(stacked, shape.rows, shape.cols / kernels::kGroup)));
  linear.matrix = {SourceFormat::kMxfp4, all_rows(stacked, shape), shape.cols,
                   linear.weights->bytes, linear.scales->bytes};
  return linear;
}

Linear part_of_stack(const Linear& all, std::size_t index, std::size_t rows) {
  Linear part = all;
  part.matrix = row_band(all.matrix, {index * rows, (index + 1) * rows}).matrix;
  return part;
}

Linear join_heads(const Linear& key_up, const Linear& value_up, const ModelConfig& config,
                  kernels::HeadMatrices& heads) {
  heads = {config.n_heads, config.qk_nope_head_dim, config.v_head_dim, key_up.matrix,
           value_up.matrix};
  Linear linear{key_up.weights, value_up.weights, nullptr, {}};
  linear.matrix.format = SourceFormat::kHeads;
  linear.matrix.rows = config.n_heads * (config.qk_nope_head_dim + config.v_head_dim);
  linear.matrix.cols = config.kv_lora_rank;
  linear.matrix.heads = &heads;
  return linear;
}

}  // namespace conclave::model
