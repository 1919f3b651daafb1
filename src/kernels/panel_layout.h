// Where each byte of a panel lies. Private to this module; pack.cc writes it, gemm_tiles.h reads
// it.
//
//   f32, f16, bf16: for each column, 16 rows.
//   fp8:   for each run of columns inside one 128-block: 16 float32 scales (one per row), then for
//          each column 16 bytes.
//   int8:  groups of 32 inputs in pairs: 2 x 16 bf16 scales (64 bytes, one cache line), then the
//          weights of both groups. A group is 8 words of 4 inputs x 16 rows: byte (row * 4 + j) of
//          word i is input 4 * i + j, plus 128. This is the operand of VNNI and of an AMX tile.
//   int4:  the same, but words i and i + 4 share 64 bytes as low and high nibbles, plus 8.
//   mxfp4: as int4, nibbles being E2M1 codes and scales half of the file's.
//   int4_affine, int8_affine, int8_halves: for each group of 32 inputs 16 float32 scales, then 16
//          offsets (of halves the scales of the second 16 inputs), then weights as above, plain
//          whole numbers from 0 on.
//   The odd last group of a row of int8, int4, mxfp4 still has a 64-byte line of scales; padding
//   weights are zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace conclave::kernels {

inline constexpr std::size_t kInt8GroupBytes = 512;
inline constexpr std::size_t kInt4GroupBytes = 256;
inline constexpr std::size_t kScaleLineBytes = 64;  // two groups of 16 bf16

inline constexpr std::size_t kFp8ScaleBytes = 64;  // 16 float32, one per row

// Where the 128-block of column `col` ends within the panel's `cols` columns.
inline std::size_t fp8_block_end(std::size_t col, std::size_t block_offset, std::size_t cols) {
  const std::size_t block = (col + block_offset) / kFp8BlockSize;
  const std::size_t end = (block + 1) * kFp8BlockSize - block_offset;
  return end < cols ? end : cols;
}

inline constexpr std::size_t kAffineScaleBytes = 128;  // 16 float32, twice

constexpr bool is_affine(PackedFormat format) { return format >= PackedFormat::kInt4Affine; }

struct IntGroupPlace {
  std::size_t weights;  // byte offset in the panel
  std::size_t scales;
};

inline IntGroupPlace int_group_place(std::size_t group, std::size_t group_bytes) {
  const std::size_t pair_base = group / 2 * (kScaleLineBytes + 2 * group_bytes);
  const std::size_t second = group % 2;
  return {pair_base + kScaleLineBytes + second * group_bytes, pair_base + second * 32};
}

// Of a group's weights.
constexpr std::size_t int_group_bytes(PackedFormat format) {
  const bool nibbles = format == PackedFormat::kInt4 || format == PackedFormat::kMxfp4 ||
                       format == PackedFormat::kInt4Affine;
  return nibbles ? kInt4GroupBytes : kInt8GroupBytes;
}

inline IntGroupPlace affine_group_place(std::size_t group, std::size_t group_bytes) {
  const std::size_t base = group * (kAffineScaleBytes + group_bytes);
  return {base + kAffineScaleBytes, base};
}

inline constexpr std::int32_t kHalvesOffset = 32;  // stored minus true value

// Twice the value of each E2M1 code, plus 12: unsigned, as a table for byte shuffles.
inline constexpr std::int32_t kMxfp4Offset = 12;
alignas(16) inline constexpr std::uint8_t kMxfp4Table[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                                             12, 11, 10, 9,  8,  6,  4,  0};

// Input `k` (0..31) of row `lane` of a group: the true whole number, but of the affine formats the
// number stored.
inline std::int32_t int_group_value(const std::byte* weights, PackedFormat format, std::size_t k,
                                    std::size_t lane) {
  const std::size_t word = k / 4;
  if (int_group_bytes(format) == kInt8GroupBytes) {
    const auto byte = std::to_integer<std::int32_t>(weights[word * 64 + lane * 4 + k % 4]);
    if (format == PackedFormat::kInt8Affine) return byte;
    return byte - (format == PackedFormat::kInt8 ? 128 : kHalvesOffset);
  }
  const auto both = std::to_integer<unsigned>(weights[(word % 4) * 64 + lane * 4 + k % 4]);
  const unsigned nibble = word < 4 ? both & 15u : both >> 4;
  if (format == PackedFormat::kMxfp4) return std::int32_t{kMxfp4Table[nibble]} - kMxfp4Offset;
  return static_cast<std::int32_t>(nibble) - (format == PackedFormat::kInt4 ? 8 : 0);
}

// All 16 rows, in float.
inline void int_group_column(const std::byte* weights, PackedFormat format, std::size_t k,
                             float* column) {
  for (std::size_t lane = 0; lane < kPanelRows; ++lane) {
    column[lane] = static_cast<float>(int_group_value(weights, format, k, lane));
  }
}

}  // namespace conclave::kernels
