#include <algorithm>
#include <cmath>

#include "base/little_endian.h"
#include "base/number_formats.h"
#include "model/table.h"

namespace conclave::model {
namespace {

using formats::DType;
using formats::Tensor;

template <class T>
T load(const Tensor& tensor, std::size_t index) {
  CHECK((index + 1) * sizeof(T) <= tensor.bytes.size());
  return nth_little_endian<T>(tensor.bytes, index);
}

Result<void> check_weight_shape(const Linear& linear) {
  const Tensor& shape = *linear.shape;
  const auto value = [&shape](std::size_t i) {
    return shape.dtype == DType::kI64 ? load<std::int64_t>(shape, i)
                                      : std::int64_t{load<std::int32_t>(shape, i)};
  };
  const kernels::SourceMatrix& matrix = linear.matrix;
  if (value(0) == static_cast<std::int64_t>(matrix.rows) &&
      value(1) == static_cast<std::int64_t>(matrix.cols)) {
    return {};
  }
  return corrupt(label_of(shape) + ": says [" + std::to_string(value(0)) + ", " +
                 std::to_string(value(1)) + "], expected [" + std::to_string(matrix.rows) + ", " +
                 std::to_string(matrix.cols) + "]");
}

// A matrix may be part of its tensor, as of fused experts: the place is that in the tensor.
Result<void> check_plain(const Linear& linear, const kernels::SourceMatrix& rows) {
  const std::optional<std::size_t> bad = first_not_finite(rows);
  if (!bad) return {};
  const Tensor& tensor = *linear.weights;
  const auto offset = static_cast<std::size_t>(rows.weights.data() - tensor.bytes.data());
  std::size_t rest = offset / formats::size_bytes(tensor.dtype) + *bad;
  std::vector<std::size_t> place = tensor.shape;
  for (std::size_t i = place.size(); i-- > 0;) {
    place[i] = rest % tensor.shape[i];
    rest /= tensor.shape[i];
  }
  return corrupt(label_of(tensor) + ": " + formats::shape_text(place) +
                 " is NaN or infinite, expected a finite number");
}

// Rows of an interleaved matrix, with those of the other between them.
RowBand mxfp4_band(const kernels::SourceMatrix& matrix, Range rows) {
  kernels::SourceMatrix part = matrix;
  part.rows = rows.size();
  const std::size_t first = rows.begin * matrix.row_step;
  const std::size_t count = (rows.size() - 1) * matrix.row_step + 1;
  const std::size_t row_scales = matrix.cols / kernels::kGroup;
  part.weights = matrix.weights.subspan(first * matrix.cols / 2, count * matrix.cols / 2);
  part.scales = matrix.scales.subspan(first * row_scales, count * row_scales);
  return {part, rows.begin};
}

}  // namespace

float float_at(const Tensor& tensor, std::size_t index) {
  if (tensor.dtype == DType::kBF16) return bf16_to_float(load<std::uint16_t>(tensor, index));
  if (tensor.dtype == DType::kF16) return f16_to_float(load<std::uint16_t>(tensor, index));
  CHECK(tensor.dtype == DType::kF32);
  return load<float>(tensor, index);
}

std::string label_of(const Tensor& tensor) {
  return tensor.file->path().filename().string() + ": " + std::string(tensor.name_in_file());
}

// A scale may lie in another file than its weights: then both are named.
std::string label_of(const Linear& linear) {
  std::string file = linear.weights->file->path().filename().string();
  if (linear.scales != nullptr && linear.scales->file != linear.weights->file) {
    file += " and " + linear.scales->file->path().filename().string();
  }
  std::string_view name = linear.weights->name_in_file();
  if (linear.matrix.format == kernels::SourceFormat::kInt4Group ||
      linear.matrix.format == kernels::SourceFormat::kFp8Block || linear.matrix.group > 0) {
    name = name.substr(0, name.rfind('.'));  // the module: its tensors share all but the last part
  }
  constexpr std::string_view kBlocks = "_blocks";
  const bool stacked = linear.matrix.format == kernels::SourceFormat::kMxfp4;
  if (stacked && name.ends_with(kBlocks)) name.remove_suffix(kBlocks.size());
  return file + ": " + std::string(name);
}

RowBand row_band(const kernels::SourceMatrix& matrix, Range rows) {
  CHECK(rows.begin <= rows.end && rows.end <= matrix.rows);
  if (rows.size() == 0) return {{matrix.format, 0, matrix.cols, {}, {}}, rows.begin};
  if (matrix.format == kernels::SourceFormat::kMxfp4) return mxfp4_band(matrix, rows);
  const std::size_t unit =
      matrix.format == kernels::SourceFormat::kFp8Block ? kernels::kFp8BlockSize : 1;
  const std::size_t begin = rows.begin / unit * unit;
  const std::size_t end = std::min((rows.end + unit - 1) / unit * unit, matrix.rows);
  const std::size_t row_bytes = matrix.weights.size() / matrix.rows;
  RowBand band = {matrix, begin};
  band.matrix.rows = end - begin;
  band.matrix.weights = matrix.weights.subspan(begin * row_bytes, (end - begin) * row_bytes);
  if (matrix.scales.empty()) return band;
  const std::size_t scale_rows = (matrix.rows + unit - 1) / unit;
  const std::size_t scale_bytes = matrix.scales.size() / scale_rows;
  const std::size_t last = (end + unit - 1) / unit;
  band.matrix.scales =
      matrix.scales.subspan(begin / unit * scale_bytes, (last - begin / unit) * scale_bytes);
  if (is_mlx(matrix)) {
    band.matrix.offsets = matrix.offsets.subspan(begin * scale_bytes, (end - begin) * scale_bytes);
  }
  return band;
}

// Rows of the tensor before the matrix, where it is one of a stack.
std::size_t rows_before(const Linear& linear) {
  const kernels::SourceMatrix& matrix = linear.matrix;
  if (matrix.rows == 0 || matrix.row_step != 1) return 0;
  const auto offset =
      static_cast<std::size_t>(matrix.weights.data() - linear.weights->bytes.data());
  const std::size_t row_bytes = matrix.weights.size() / matrix.rows;
  return row_bytes == 0 ? 0 : offset / row_bytes;
}

std::array<RowBand, 2> head_bands(const kernels::SourceMatrix& matrix, Range rows) {
  const kernels::HeadMatrices& heads = *matrix.heads;
  const std::size_t width = heads.nope + heads.v;
  const std::size_t begin = rows.begin / width;
  const std::size_t end = (rows.end + width - 1) / width;
  return {row_band(heads.key_up, {begin * matrix.cols, end * matrix.cols}),
          row_band(heads.value_up, {begin * heads.v, end * heads.v})};
}

Result<void> check_values(const Linear& linear, Range rows) {
  if (linear.shape != nullptr) TRY(check_weight_shape(linear));
  if (linear.matrix.format == kernels::SourceFormat::kHeads) {
    const std::array<RowBand, 2> bands = head_bands(linear.matrix, rows);
    for (std::size_t half = 0; half < 2; ++half) {
      const Linear part{half == 0 ? linear.weights : linear.scales, nullptr, nullptr, {}};
      TRY(check_plain(part, bands[half].matrix));
      TRY(check_scales(bands[half].matrix, label_of(*part.weights), bands[half].first_row));
    }
    return {};
  }
  const RowBand band = row_band(linear.matrix, rows);
  TRY(check_plain(linear, band.matrix));
  return check_scales(band.matrix, label_of(linear), rows_before(linear) + band.first_row);
}

Result<void> check_values(const Linear& linear) {
  return check_values(linear, {0, linear.matrix.rows});
}

Result<std::vector<float>> read_vector(const Tensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / formats::size_bytes(tensor.dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = float_at(tensor, i);
    if (!std::isfinite(values[i])) {
      return corrupt(label_of(tensor) + ": [" + std::to_string(i) +
                     "] is NaN or infinite, expected a finite number");
    }
  }
  return values;
}

}  // namespace conclave::model
