#include <algorithm>

#include "base/little_endian.h"
#include "model/table.h"

namespace conclave::model {
namespace {

// The position, in row-major order, of the first value for which `is_bad`.
template <class T, class IsBad>
std::optional<std::size_t> first_bad(std::span<const std::byte> bytes, const IsBad& is_bad) {
  // Whole blocks without a branch per value, which compilers turn into vectors.
  constexpr std::size_t kBlock = 1024;
  const std::size_t count = bytes.size() / sizeof(T);
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, count);
    std::uint32_t n_bad = 0;
    for (std::size_t i = begin; i < end; ++i) {
      n_bad += is_bad(nth_little_endian<T>(bytes, i)) ? 1u : 0u;
    }
    if (n_bad == 0) continue;
    for (std::size_t i = begin; i < end; ++i) {
      if (is_bad(nth_little_endian<T>(bytes, i))) return i;
    }
  }
  return std::nullopt;
}

// Lambdas, so that each has a type of its own and the loop above takes it in.
constexpr auto kIsBadBf16 = [](std::uint16_t bits) { return (bits & 0x7f80u) == 0x7f80u; };
constexpr auto kIsBadF16 = [](std::uint16_t bits) { return (bits & 0x7c00u) == 0x7c00u; };
constexpr auto kIsBadF32 = [](std::uint32_t bits) { return (bits & 0x7f800000u) == 0x7f800000u; };
// Times a code and with an offset, a scale from 2^118 on may make infinity and then NaN.
constexpr auto kIsBadBf16Scale = [](std::uint16_t bits) {
  return (bits & 0x7fffu) >= (127u + 118u) << 7;
};
constexpr auto kIsBadF32Scale = [](std::uint32_t bits) {
  return (bits & 0x7fffffffu) >= (127u + 118u) << 23;
};
// 255 is NaN; above 252 a weight of 6 would be infinite.
constexpr auto kIsBadE8m0 = [](std::uint8_t bits) { return bits > 252; };
constexpr auto kIsBadE4m3 = [](std::uint8_t bits) { return (bits & 0x7fu) == 0x7fu; };

constexpr std::string_view kNotFinite = "is NaN or infinite, expected a finite number";
constexpr std::string_view kTooLarge =
    "is NaN, infinite or beyond 2^118, expected a number that keeps weights finite";

Error bad_value(std::string_view label, std::string_view suffix, std::size_t index,
                std::size_t width, std::size_t first_row, std::string_view why = kNotFinite) {
  return corrupt(std::string(label) + std::string(suffix) + ": [" +
                 std::to_string(first_row + index / width) + ", " + std::to_string(index % width) +
                 "] " + std::string(why));
}

Error bad_block(std::string_view label, std::size_t row, std::size_t block) {
  return corrupt(std::string(label) + ": row " + std::to_string(row) + ", block " +
                 std::to_string(block) +
                 ": the scale is NaN or infinite, expected a finite number");
}

Result<void> check_blocks(const kernels::SourceMatrix& matrix, std::string_view label,
                          std::size_t first_row) {
  const kernels::BlockLayout layout = kernels::block_layout(matrix.format);
  if (layout.inputs == 0) return {};
  const std::size_t width = matrix.cols / layout.inputs;
  for (std::size_t i = 0; i * layout.bytes < matrix.weights.size(); ++i) {
    const std::size_t at = i * layout.bytes;
    bool bad =
        layout.scales == 0 && kIsBadE8m0(get_little_endian<std::uint8_t>(matrix.weights, at));
    for (std::size_t scale = 0; scale < layout.scales; ++scale) {
      const std::size_t scale_at = at + layout.first_scale + 2 * scale;
      bad |= kIsBadF16(get_little_endian<std::uint16_t>(matrix.weights, scale_at));
    }
    if (bad) return bad_block(label, first_row + i / width, i % width);
  }
  return {};
}

std::optional<std::size_t> first_bad_scale(std::span<const std::byte> scales,
                                           kernels::ScaleType type) {
  switch (type) {
    case kernels::ScaleType::kBF16:
      return first_bad<std::uint16_t>(scales, kIsBadBf16Scale);
    case kernels::ScaleType::kF16:
      return first_bad<std::uint16_t>(scales, kIsBadF16);
    case kernels::ScaleType::kF32:
      return first_bad<std::uint32_t>(scales, kIsBadF32Scale);
  }
  return std::nullopt;
}

// Scales and, of MLX, offsets of the same type.
Result<void> check_stream_scales(const kernels::SourceMatrix& matrix, std::string_view label,
                                 std::size_t first_row) {
  const std::size_t width = matrix.cols / matrix.group;
  if (const auto bad = first_bad_scale(matrix.scales, matrix.scale_type)) {
    const std::string_view suffix = is_mlx(matrix) ? ".scales" : ".weight_scale";
    return bad_value(label, suffix, *bad, width, first_row, kTooLarge);
  }
  if (!is_mlx(matrix)) return {};
  if (const auto bad = first_bad_scale(matrix.offsets, matrix.scale_type)) {
    return bad_value(label, ".biases", *bad, width, first_row, kTooLarge);
  }
  return {};
}

}  // namespace

std::optional<std::size_t> first_not_finite(const kernels::SourceMatrix& matrix) {
  switch (matrix.format) {
    case kernels::SourceFormat::kF32:
      return first_bad<std::uint32_t>(matrix.weights, kIsBadF32);
    case kernels::SourceFormat::kF16:
      return first_bad<std::uint16_t>(matrix.weights, kIsBadF16);
    case kernels::SourceFormat::kBF16:
      return first_bad<std::uint16_t>(matrix.weights, kIsBadBf16);
    default:
      return std::nullopt;  // numbers with scales
  }
}

Result<void> check_scales(const kernels::SourceMatrix& matrix, std::string_view label,
                          std::size_t first_row) {
  if (matrix.format == kernels::SourceFormat::kInt4Group) {
    if (const auto bad = first_bad<std::uint16_t>(matrix.scales, kIsBadBf16)) {
      return bad_value(label, ".weight_scale", *bad, matrix.cols / kernels::kGroup, first_row);
    }
  }
  if (matrix.format == kernels::SourceFormat::kMxfp4) {
    if (const auto bad = first_bad<std::uint8_t>(matrix.scales, kIsBadE8m0)) {
      const std::size_t width = matrix.cols / kernels::kGroup;
      return corrupt(std::string(label) + "_scales: row " +
                     std::to_string(first_row + *bad / width / matrix.row_step) + ", group " +
                     std::to_string(*bad % width) +
                     " of an expert is NaN or makes infinite weights, expected at most 252");
    }
  }
  if (matrix.format == kernels::SourceFormat::kFp8Block) {
    const std::size_t blocks = (matrix.cols + kernels::kFp8BlockSize - 1) / kernels::kFp8BlockSize;
    if (const auto bad = first_bad<std::uint32_t>(matrix.scales, kIsBadF32)) {
      return bad_value(label, ".weight_scale_inv", *bad, blocks,
                       first_row / kernels::kFp8BlockSize);
    }
    if (const auto bad = first_bad<std::uint8_t>(matrix.weights, kIsBadE4m3)) {
      return bad_value(label, ".weight", *bad, matrix.cols, first_row);
    }
  }
  if (matrix.group > 0) return check_stream_scales(matrix, label, first_row);
  return check_blocks(matrix, label, first_row);
}

}  // namespace conclave::model
