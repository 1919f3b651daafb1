#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/number_formats.h"
#include "kernels/kernels.h"
#include "kernels/panel_layout.h"

namespace conclave::kernels {
namespace {

std::uint16_t load_u16(const std::byte* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}

float load_f32(const std::byte* p) {
  float value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float fp8_value(const std::byte* panel, std::size_t block_offset, std::size_t lane,
                std::size_t col) {
  // Every block before this one is full but for the first, which starts at block_offset.
  const std::size_t block = (col + block_offset) / kFp8BlockSize;
  const std::size_t first_col = block == 0 ? 0 : block * kFp8BlockSize - block_offset;
  const std::size_t offset = first_col * kPanelRows + block * kFp8ScaleBytes;
  const auto bits = std::to_integer<std::uint8_t>(
      panel[offset + kFp8ScaleBytes + (col - first_col) * kPanelRows + lane]);
  return e4m3_to_float(bits) * load_f32(panel + offset + lane * 4);
}

float int_value(const std::byte* panel, PackedFormat format, std::size_t lane, std::size_t col) {
  const std::size_t group = col / kGroup;
  const std::size_t bytes = int_group_bytes(format);
  const IntGroupPlace place =
      is_affine(format) ? affine_group_place(group, bytes) : int_group_place(group, bytes);
  const auto value =
      static_cast<float>(int_group_value(panel + place.weights, format, col % kGroup, lane));
  if (is_affine(format)) {
    const float first = load_f32(panel + place.scales + lane * 4);
    const float second = load_f32(panel + place.scales + 64 + lane * 4);
    if (format != PackedFormat::kInt8Halves) return std::fma(first, value, second);
    return value * (col % kGroup < kGroup / 2 ? first : second);
  }
  return value * bf16_to_float(load_u16(panel + place.scales + lane * 2));
}

}  // namespace

void unpack_row(const PackedMatrix& m, std::size_t row, std::span<float> out) {
  CHECK(row < m.rows && out.size() == m.cols);
  const std::byte* panel =
      m.data.data() + row / kPanelRows * panel_bytes(m.format, m.cols, m.block_offset);
  const std::size_t lane = row % kPanelRows;
  for (std::size_t c = 0; c < m.cols; ++c) {
    const std::size_t index = c * kPanelRows + lane;
    switch (m.format) {
      case PackedFormat::kF32:
        out[c] = load_f32(panel + index * 4);
        break;
      case PackedFormat::kF16:
        out[c] = f16_to_float(load_u16(panel + index * 2));
        break;
      case PackedFormat::kBF16:
        out[c] = bf16_to_float(load_u16(panel + index * 2));
        break;
      case PackedFormat::kFp8:
        out[c] = fp8_value(panel, m.block_offset, lane, c);
        break;
      case PackedFormat::kInt8:
      case PackedFormat::kInt4:
      case PackedFormat::kMxfp4:
      case PackedFormat::kInt4Affine:
      case PackedFormat::kInt8Affine:
      case PackedFormat::kInt8Halves:
        out[c] = int_value(panel, m.format, lane, c);
        break;
    }
  }
}

}  // namespace conclave::kernels
