#include "kernels/source_values.h"

#include <cstring>

#include "base/check.h"
#include "base/little_endian.h"
#include "base/number_formats.h"
#include "kernels/panel_layout.h"

namespace conclave::kernels {
namespace {

constexpr std::size_t kGgufMxfp4Bytes = 17;  // a scale and 32 codes

float f16_at(const std::byte* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return f16_to_float(bits);
}

unsigned byte_at(const std::byte* p) { return std::to_integer<unsigned>(*p); }

// ---- Blocks of 32 ---------------------------------------------------------------------------

// Inputs 0..15 are the low nibbles of 16 bytes, 16..31 the high ones.
void read_nibbles(const std::byte* bytes, bool high, Unit& unit) {
  for (std::size_t i = 0; i < kUnit; ++i) {
    const unsigned both = byte_at(bytes + i);
    unit.codes[i] = static_cast<std::uint8_t>(high ? both >> 4 : both & 15u);
  }
}

void add_fifth_bits(const std::byte* bits, bool high, Unit& unit) {
  std::uint32_t word;
  std::memcpy(&word, bits, sizeof word);
  if (high) word >>= 16;
  for (std::size_t i = 0; i < kUnit; ++i) {
    unit.codes[i] = static_cast<std::uint8_t>(unit.codes[i] | (word >> i & 1u) << 4);
  }
}

// The values of IQ4's codes, plus 128.
constexpr std::uint8_t kIq4Table[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                        129, 141, 153, 166, 181, 197, 217, 241};

void look_up_iq4(Unit& unit) {
  unit.zero = 128;
  for (std::uint8_t& code : unit.codes) code = kIq4Table[code];
}

struct Q4Or5 {
  bool has_offset;  // Q4_1 and Q5_1; the others have a zero in the middle
  bool five_bits;
};

// Q4_0, Q4_1, Q5_0 and Q5_1: a scale, the offset, the fifth bits of all codes, the others of each.
Unit read_q4_or_q5(const std::byte* block, const Q4Or5& form, bool high) {
  Unit unit;
  unit.scale = f16_at(block);
  unit.has_offset = form.has_offset;
  if (form.has_offset) {
    unit.offset = f16_at(block + 2);
  } else {
    unit.zero = form.five_bits ? 16 : 8;
  }
  const std::byte* codes = block + (form.has_offset ? 4 : 2);
  read_nibbles(codes + (form.five_bits ? 4 : 0), high, unit);
  if (form.five_bits) add_fifth_bits(codes, high, unit);
  return unit;
}

Unit read_q8_0(const std::byte* block, bool high) {
  Unit unit;
  unit.scale = f16_at(block);
  unit.zero = 128;
  for (std::size_t i = 0; i < kUnit; ++i) {
    unit.codes[i] = static_cast<std::uint8_t>(byte_at(block + 2 + (high ? kUnit : 0) + i) ^ 128u);
  }
  return unit;
}

Unit read_iq4_nl(const std::byte* block, bool high) {
  Unit unit;
  unit.scale = f16_at(block);
  read_nibbles(block + 2, high, unit);
  look_up_iq4(unit);
  return unit;
}

// ---- Blocks of 256 --------------------------------------------------------------------------

// The 6-bit scale and minimum of sub-block j of Q4_K and Q5_K, times those of the block.
void read_k_scales(const std::byte* block, std::size_t j, Unit& unit) {
  const std::byte* packed = block + 4;
  unsigned scale = byte_at(packed + j) & 63u;
  unsigned minimum = byte_at(packed + j + 4) & 63u;
  if (j >= 4) {
    const unsigned low = byte_at(packed + j + 4);
    scale = (low & 15u) | byte_at(packed + j - 4) >> 6 << 4;
    minimum = low >> 4 | byte_at(packed + j) >> 6 << 4;
  }
  unit.scale = f16_at(block) * static_cast<float>(scale);
  unit.offset = -(f16_at(block + 2) * static_cast<float>(minimum));
  unit.has_offset = true;
}

// Sub-blocks 2c and 2c + 1 are the low and high nibbles of the same 32 bytes.
void read_k_nibbles(const std::byte* nibbles, std::size_t unit_index, Unit& unit) {
  const std::size_t sub_block = unit_index / 2;
  const std::byte* bytes = nibbles + sub_block / 2 * 32 + unit_index % 2 * kUnit;
  read_nibbles(bytes, sub_block % 2 == 1, unit);
}

Unit read_q4_k(const std::byte* block, std::size_t unit_index) {
  Unit unit;
  read_k_scales(block, unit_index / 2, unit);
  read_k_nibbles(block + 16, unit_index, unit);
  return unit;
}

Unit read_q5_k(const std::byte* block, std::size_t unit_index) {
  Unit unit;
  read_k_scales(block, unit_index / 2, unit);
  read_k_nibbles(block + 48, unit_index, unit);
  const std::byte* fifth = block + 16 + unit_index % 2 * kUnit;
  for (std::size_t i = 0; i < kUnit; ++i) {
    const unsigned bit = byte_at(fifth + i) >> (unit_index / 2) & 1u;
    unit.codes[i] = static_cast<std::uint8_t>(unit.codes[i] | bit << 4);
  }
  return unit;
}

// Halves of 128 inputs; in each, quarters of 32 share bytes.
Unit read_q6_k(const std::byte* block, std::size_t unit_index) {
  const std::size_t half = unit_index / 8;
  const std::size_t quarter = unit_index % 8 / 2;
  const std::size_t first = unit_index % 2 * kUnit;
  const std::byte* low = block + half * 64 + quarter % 2 * 32 + first;
  const std::byte* high = block + 128 + half * 32 + first;
  Unit unit;
  const auto scale = static_cast<std::int8_t>(byte_at(block + 192 + unit_index));
  unit.scale = f16_at(block + 208) * static_cast<float>(scale);
  unit.zero = kHalvesOffset;
  for (std::size_t i = 0; i < kUnit; ++i) {
    const unsigned nibble = quarter < 2 ? byte_at(low + i) & 15u : byte_at(low + i) >> 4;
    const unsigned top = byte_at(high + i) >> (2 * quarter) & 3u;
    unit.codes[i] = static_cast<std::uint8_t>(nibble | top << 4);
  }
  return unit;
}

Unit read_iq4_xs(const std::byte* block, std::size_t unit_index) {
  const std::size_t sub_block = unit_index / 2;
  std::uint16_t high_bits;
  std::memcpy(&high_bits, block + 2, sizeof high_bits);
  const unsigned low = byte_at(block + 4 + sub_block / 2) >> (4 * (sub_block % 2)) & 15u;
  const unsigned high = unsigned{high_bits} >> (2 * sub_block) & 3u;
  Unit unit;
  unit.scale = f16_at(block) * static_cast<float>(static_cast<int>(low | high << 4) - 32);
  read_nibbles(block + 8 + sub_block * kUnit, unit_index % 2 == 1, unit);
  look_up_iq4(unit);
  return unit;
}

// ---- Codes as streams of bits -----------------------------------------------------------------

float scale_at(std::span<const std::byte> scales, ScaleType type, std::size_t index) {
  switch (type) {
    case ScaleType::kBF16:
      return bf16_to_float(nth_little_endian<std::uint16_t>(scales, index));
    case ScaleType::kF16:
      return f16_to_float(nth_little_endian<std::uint16_t>(scales, index));
    case ScaleType::kF32:
      return nth_little_endian<float>(scales, index);
  }
  return 0.0f;
}

// 16 codes of `bits` bits each fill 2 * bits bytes, the first in the lowest bits.
void read_bit_stream(const std::byte* bytes, unsigned bits, Unit& unit) {
  std::size_t next = 0;  // byte
  unsigned held = 0;
  unsigned n_held = 0;
  for (std::uint8_t& code : unit.codes) {
    while (n_held < bits) {
      held |= byte_at(bytes + next++) << n_held;
      n_held += 8;
    }
    code = static_cast<std::uint8_t>(held & ((1u << bits) - 1u));
    held >>= bits;
    n_held -= bits;
  }
}

// The zero point of a row's group: packed down the rows, 32 / bits to a word.
int zero_point(const SourceMatrix& m, std::size_t row, std::size_t group) {
  if (m.offsets.empty()) return 1 << (m.bits - 1);
  const std::size_t per_word = 32 / m.bits;
  const std::size_t index = row / per_word * (m.cols / m.group) + group;
  const auto word = nth_little_endian<std::uint32_t>(m.offsets, index);
  return static_cast<int>(word >> (row % per_word * m.bits) & ((1u << m.bits) - 1u));
}

Unit read_stream_unit(const SourceMatrix& m, std::size_t row, std::size_t unit_index) {
  const std::size_t group = unit_index * kUnit / m.group;
  const std::size_t scale = row * (m.cols / m.group) + group;
  Unit unit;
  unit.scale = scale_at(m.scales, m.scale_type, scale);
  if (m.format == SourceFormat::kMlx4 || m.format == SourceFormat::kMlx8) {
    unit.offset = scale_at(m.offsets, m.scale_type, scale);
    unit.has_offset = true;
  } else {
    unit.zero = zero_point(m, row, group);
  }
  const std::byte* codes = m.weights.data() + row * source_row_bytes(m);
  read_bit_stream(codes + unit_index * 2 * m.bits, m.bits, unit);
  return unit;
}

float int4_value(const SourceMatrix& m, std::size_t row, std::size_t col) {
  const auto byte = std::to_integer<unsigned>(m.weights[row * (m.cols / 2) + col / 2]);
  const unsigned nibble = col % 2 == 0 ? byte & 15u : byte >> 4;
  const std::size_t scale = row * (m.cols / kGroup) + col / kGroup;
  return static_cast<float>(static_cast<int>(nibble) - 8) *
         bf16_to_float(nth_little_endian<std::uint16_t>(m.scales, scale));
}

float mxfp4_value(const SourceMatrix& m, std::size_t row, std::size_t col) {
  const int twice = int{kMxfp4Table[mxfp4_code(m, row, col)]} - kMxfp4Offset;
  return static_cast<float>(twice) * bf16_to_float(mxfp4_half_scale(m, row, col));
}

}  // namespace

BlockLayout block_layout(SourceFormat format) {
  switch (format) {
    case SourceFormat::kQ4_0:
    case SourceFormat::kIq4Nl:
      return {32, 18, 0, 1};
    case SourceFormat::kQ4_1:
      return {32, 20, 0, 2};
    case SourceFormat::kQ5_0:
      return {32, 22, 0, 1};
    case SourceFormat::kQ5_1:
      return {32, 24, 0, 2};
    case SourceFormat::kQ8_0:
      return {32, 34, 0, 1};
    case SourceFormat::kGgufMxfp4:
      return {32, kGgufMxfp4Bytes, 0, 0};
    case SourceFormat::kQ4K:
      return {256, 144, 0, 2};
    case SourceFormat::kQ5K:
      return {256, 176, 0, 2};
    case SourceFormat::kQ6K:
      return {256, 210, 208, 1};
    case SourceFormat::kIq4Xs:
      return {256, 136, 0, 1};
    default:
      return {};
  }
}

std::size_t source_row_bytes(const SourceMatrix& m) {
  switch (m.format) {
    case SourceFormat::kF32:
      return m.cols * 4;
    case SourceFormat::kF16:
    case SourceFormat::kBF16:
      return m.cols * 2;
    case SourceFormat::kFp8Block:
      return m.cols;
    case SourceFormat::kInt4Group:
    case SourceFormat::kMxfp4:
      return m.cols / 2;
    case SourceFormat::kMlx4:
    case SourceFormat::kMlx8:
    case SourceFormat::kPacked4:
    case SourceFormat::kPacked8:
    case SourceFormat::kPackedBf16x4:
    case SourceFormat::kPackedBf16x8:
      return m.cols * m.bits / 8;
    default: {
      const BlockLayout layout = block_layout(m.format);
      CHECK(layout.inputs > 0);
      return m.cols / layout.inputs * layout.bytes;
    }
  }
}

bool is_block_format(SourceFormat format) {
  return format >= SourceFormat::kInt4Group && format != SourceFormat::kHeads;
}

Unit read_unit(const SourceMatrix& m, std::size_t row, std::size_t unit) {
  const BlockLayout layout = block_layout(m.format);
  if (layout.inputs == 0) return read_stream_unit(m, row, unit);
  const std::size_t units = layout.inputs / kUnit;
  const std::byte* block =
      m.weights.data() + (row * (m.cols / layout.inputs) + unit / units) * layout.bytes;
  const std::size_t in_block = unit % units;
  switch (m.format) {
    case SourceFormat::kQ4_0:
      return read_q4_or_q5(block, {.has_offset = false, .five_bits = false}, in_block == 1);
    case SourceFormat::kQ4_1:
      return read_q4_or_q5(block, {.has_offset = true, .five_bits = false}, in_block == 1);
    case SourceFormat::kQ5_0:
      return read_q4_or_q5(block, {.has_offset = false, .five_bits = true}, in_block == 1);
    case SourceFormat::kQ5_1:
      return read_q4_or_q5(block, {.has_offset = true, .five_bits = true}, in_block == 1);
    case SourceFormat::kQ8_0:
      return read_q8_0(block, in_block == 1);
    case SourceFormat::kIq4Nl:
      return read_iq4_nl(block, in_block == 1);
    case SourceFormat::kQ4K:
      return read_q4_k(block, in_block);
    case SourceFormat::kQ5K:
      return read_q5_k(block, in_block);
    case SourceFormat::kQ6K:
      return read_q6_k(block, in_block);
    case SourceFormat::kIq4Xs:
      return read_iq4_xs(block, in_block);
    default:
      break;
  }
  CHECK(false);
  return {};
}

// Of gpt-oss's own layout neighbours share a byte; of GGUF's inputs k and k + 16 of a block.
unsigned mxfp4_code(const SourceMatrix& m, std::size_t row, std::size_t col) {
  if (m.format == SourceFormat::kGgufMxfp4) {
    const std::size_t block = row * source_row_bytes(m) + col / kGroup * kGgufMxfp4Bytes;
    const unsigned both = byte_at(m.weights.data() + block + 1 + col % kUnit);
    return col % kGroup < kUnit ? both & 15u : both >> 4;
  }
  const auto both = byte_at(m.weights.data() + row * m.row_step * (m.cols / 2) + col / 2);
  return col % 2 == 0 ? both & 15u : both >> 4;
}

// 2^(e - 128): its exponent field, or a subnormal.
std::uint16_t mxfp4_half_scale(const SourceMatrix& m, std::size_t row, std::size_t col) {
  const std::byte* at =
      m.format == SourceFormat::kGgufMxfp4
          ? m.weights.data() + row * source_row_bytes(m) + col / kGroup * kGgufMxfp4Bytes
          : m.scales.data() + row * m.row_step * (m.cols / kGroup) + col / kGroup;
  const unsigned exponent = byte_at(at);
  if (exponent >= 2) return static_cast<std::uint16_t>((exponent - 1) << 7);
  return exponent == 1 ? 0x40u : 0x20u;  // 2^-127 and 2^-128
}

float fp8_scale(const SourceMatrix& m, std::size_t row, std::size_t col) {
  const std::size_t blocks = (m.cols + kFp8BlockSize - 1) / kFp8BlockSize;
  return nth_little_endian<float>(m.scales, row / kFp8BlockSize * blocks + col / kFp8BlockSize);
}

float value_at(const SourceMatrix& m, std::size_t row, std::size_t col) {
  const std::size_t index = row * m.cols + col;
  switch (m.format) {
    case SourceFormat::kF32:
      return nth_little_endian<float>(m.weights, index);
    case SourceFormat::kF16:
      return f16_to_float(nth_little_endian<std::uint16_t>(m.weights, index));
    case SourceFormat::kBF16:
      return bf16_to_float(nth_little_endian<std::uint16_t>(m.weights, index));
    case SourceFormat::kFp8Block:
      return e4m3_to_float(nth_little_endian<std::uint8_t>(m.weights, index)) *
             fp8_scale(m, row, col);
    case SourceFormat::kInt4Group:
      return int4_value(m, row, col);
    case SourceFormat::kMxfp4:
    case SourceFormat::kGgufMxfp4:
      return mxfp4_value(m, row, col);
    default:
      return read_unit(m, row, col / kUnit).value(col % kUnit);
  }
}

namespace {

// `value(col)` for each column: a loop of its own for each format, without a choice inside.
template <class Value>
void fill(std::size_t col_begin, std::span<float> out, const Value& value) {
  for (std::size_t c = 0; c < out.size(); ++c) out[c] = value(col_begin + c);
}

void fill_from_units(const SourceMatrix& m, std::size_t row, std::size_t col_begin,
                     std::span<float> out) {
  for (std::size_t c = 0; c < out.size();) {
    const std::size_t col = col_begin + c;
    const Unit unit = read_unit(m, row, col / kUnit);
    for (std::size_t i = col % kUnit; i < kUnit && c < out.size(); ++i) out[c++] = unit.value(i);
  }
}

}  // namespace

void dequantize_row(const SourceMatrix& m, std::size_t row, std::size_t col_begin,
                    std::span<float> out) {
  CHECK(row < m.rows && col_begin + out.size() <= m.cols);
  const std::size_t first = row * m.cols;
  switch (m.format) {
    case SourceFormat::kF32:
      return fill(col_begin, out,
                  [&](std::size_t c) { return nth_little_endian<float>(m.weights, first + c); });
    case SourceFormat::kF16:
      return fill(col_begin, out, [&](std::size_t c) {
        return f16_to_float(nth_little_endian<std::uint16_t>(m.weights, first + c));
      });
    case SourceFormat::kBF16:
      return fill(col_begin, out, [&](std::size_t c) {
        return bf16_to_float(nth_little_endian<std::uint16_t>(m.weights, first + c));
      });
    case SourceFormat::kFp8Block:
      return fill(col_begin, out, [&](std::size_t c) {
        return e4m3_to_float(nth_little_endian<std::uint8_t>(m.weights, first + c)) *
               fp8_scale(m, row, c);
      });
    case SourceFormat::kInt4Group:
      return fill(col_begin, out, [&](std::size_t c) { return int4_value(m, row, c); });
    case SourceFormat::kMxfp4:
    case SourceFormat::kGgufMxfp4:
      return fill(col_begin, out, [&](std::size_t c) { return mxfp4_value(m, row, c); });
    default:
      return fill_from_units(m, row, col_begin, out);
  }
}

}  // namespace conclave::kernels
