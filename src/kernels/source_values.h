// What the bytes of a source matrix mean. Private to this module.
//
// Whole numbers times scales come in units of 16 inputs, the finest that any block format has.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace conclave::kernels {

inline constexpr std::size_t kUnit = 16;

// w = scale * (code - zero) + offset. Formats with a zero have no offset and the other way round;
// both forms are exact but for one rounding of a sum, for scales that files hold as 16 bits.
struct Unit {
  float scale = 0.0f;
  float offset = 0.0f;
  int zero = 0;
  bool has_offset = false;
  std::uint8_t codes[kUnit] = {};

  float value(std::size_t i) const {
    const float product = scale * static_cast<float>(int{codes[i]} - zero);
    return has_offset ? product + offset : product;
  }
  // The same with the zero in the offset: w = fma(scale, code, folded_offset).
  float folded_offset() const { return has_offset ? offset : scale * static_cast<float>(-zero); }
};

// Whether every group of 32 inputs is in whole numbers times a scale (and an offset).
bool is_block_format(SourceFormat format);
// Bytes of one row of `weights`.
std::size_t source_row_bytes(const SourceMatrix& source);

// Unit `unit` of a row of a block format other than kInt4Group, kMxfp4 and kGgufMxfp4.
Unit read_unit(const SourceMatrix& source, std::size_t row, std::size_t unit);

// E2M1 codes and half of their scale as bf16, of both layouts of MXFP4.
unsigned mxfp4_code(const SourceMatrix& source, std::size_t row, std::size_t col);
std::uint16_t mxfp4_half_scale(const SourceMatrix& source, std::size_t row, std::size_t col);

float fp8_scale(const SourceMatrix& source, std::size_t row, std::size_t col);

// One value of any format. A run along a row is faster by dequantize_row.
float value_at(const SourceMatrix& source, std::size_t row, std::size_t col);

}  // namespace conclave::kernels
