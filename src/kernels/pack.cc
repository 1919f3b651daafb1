#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/number_formats.h"
#include "kernels/kernels.h"
#include "kernels/panel_layout.h"
#include "kernels/source_values.h"

namespace conclave::kernels {
namespace {

// The part of a source that one panel holds, seen as up to 16 rows x `cols` inputs.
struct PanelSource {
  const SourceMatrix& matrix;
  std::size_t row;  // of the source, or its column when transposed
  std::size_t col;
  std::size_t rows;  // 1..16
  std::size_t cols;
  bool transposed;

  std::size_t source_row(std::size_t r, std::size_t c) const {
    return transposed ? col + c : row + r;
  }
  std::size_t source_col(std::size_t r, std::size_t c) const {
    return transposed ? row + r : col + c;
  }
  // Inputs of lane `r` from `c` on.
  void values(std::size_t r, std::size_t c, std::span<float> out) const {
    if (!transposed) return dequantize_row(matrix, row + r, col + c, out);
    for (std::size_t k = 0; k < out.size(); ++k) {
      out[k] = value_at(matrix, source_row(r, c + k), source_col(r, c + k));
    }
  }
};

// f32, f16 and bf16 keep the file's bytes. Column-major blocks of 16 columns stay in L1.
void pack_plain(const PanelSource& s, std::size_t element, std::span<std::byte> out) {
  for (std::size_t begin = 0; begin < s.cols; begin += 16) {
    const std::size_t end = std::min(begin + 16, s.cols);
    for (std::size_t r = 0; r < s.rows; ++r) {
      for (std::size_t c = begin; c < end; ++c) {
        const std::size_t index = s.source_row(r, c) * s.matrix.cols + s.source_col(r, c);
        std::memcpy(out.data() + (c * kPanelRows + r) * element,
                    s.matrix.weights.data() + index * element, element);
      }
    }
  }
}

void pack_f32(const PanelSource& s, std::span<std::byte> out) {
  for (std::size_t begin = 0; begin < s.cols; begin += kGroup) {
    float values[kGroup];
    const std::size_t n = std::min(kGroup, s.cols - begin);
    for (std::size_t r = 0; r < s.rows; ++r) {
      s.values(r, begin, std::span(values).first(n));
      for (std::size_t k = 0; k < n; ++k) {
        std::memcpy(out.data() + ((begin + k) * kPanelRows + r) * sizeof(float), values + k,
                    sizeof(float));
      }
    }
  }
}

void pack_fp8(const PanelSource& s, std::size_t block_offset, std::span<std::byte> out) {
  std::size_t offset = 0;
  for (std::size_t c = 0; c < s.cols;) {
    const std::size_t end = fp8_block_end(c, block_offset, s.cols);
    for (std::size_t r = 0; r < s.rows; ++r) {
      const float scale = fp8_scale(s.matrix, s.source_row(r, c), s.source_col(r, c));
      std::memcpy(out.data() + offset + r * sizeof scale, &scale, sizeof scale);
      for (std::size_t k = c; k < end; ++k) {
        out[offset + kFp8ScaleBytes + (k - c) * kPanelRows + r] =
            s.matrix.weights[s.source_row(r, k) * s.matrix.cols + s.source_col(r, k)];
      }
    }
    offset += kFp8ScaleBytes + (end - c) * kPanelRows;
    c = end;
  }
}

// Rounded up, so that absmax / scale never exceeds 127 and nothing is clipped.
std::uint16_t int8_scale(float absmax) {
  const float wanted = absmax / 127.0f;
  std::uint16_t bits = float_to_bf16(wanted);
  if (bf16_to_float(bits) < wanted) ++bits;
  return bits;
}

void pack_int8_group(const PanelSource& s, std::size_t group, std::span<std::byte> out) {
  const IntGroupPlace place = int_group_place(group, kInt8GroupBytes);
  const std::size_t begin = group * kGroup;
  const std::size_t n = std::min(kGroup, s.cols - begin);
  for (std::size_t r = 0; r < s.rows; ++r) {
    float values[kGroup];
    s.values(r, begin, std::span(values).first(n));
    float absmax = 0.0f;
    for (std::size_t k = 0; k < n; ++k) absmax = std::max(absmax, std::fabs(values[k]));
    const std::uint16_t bits = int8_scale(absmax);
    std::memcpy(out.data() + place.scales + r * 2, &bits, sizeof bits);
    const float scale = bf16_to_float(bits);
    for (std::size_t k = 0; k < n; ++k) {
      const float steps = scale > 0.0f ? std::nearbyint(values[k] / scale) : 0.0f;
      const float q = std::fabs(steps) <= 127.0f ? steps : 0.0f;  // NaN, where scales overflow
      out[place.weights + k / 4 * 64 + r * 4 + k % 4] =
          static_cast<std::byte>(static_cast<int>(q) + 128);
    }
  }
}

// To the nearest whole number, ties to even, for |x| < 2^22: what nearbyint does, without a call.
float nearest(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (x + kShift) - kShift;
}

constexpr std::uint16_t kNanBf16 = 0x7fc0;

struct Int4Values {
  std::uint16_t scale = 0;  // bf16
  float error = 0.0f;       // squared, summed
  float q[kGroup] = {};     // whole numbers from -8 to 7
};

bool all_finite(const float (&values)[kGroup]) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

// Values rounded with the bf16 number next to `wanted` as their scale.
Int4Values round_int4(const float (&values)[kGroup], float wanted) {
  Int4Values out;
  out.scale = float_to_bf16(wanted);
  const float scale = bf16_to_float(out.scale);
  if (scale == 0.0f || !std::isfinite(scale)) {
    out.scale = 0;
    for (const float value : values) out.error += value * value;
    return out;
  }
  for (std::size_t k = 0; k < kGroup; ++k) {
    out.q[k] = std::clamp(nearest(values[k] / scale), -8.0f, 7.0f);
    const float miss = values[k] - out.q[k] * scale;
    out.error += miss * miss;
  }
  return out;
}

// The largest value falls on -8, the one whole number without a partner of the other sign, or short
// of it or beyond; then the scale that fits best the numbers that came out.
Int4Values choose_int4(const float (&values)[kGroup]) {
  if (!all_finite(values)) return {kNanBf16, 0.0f, {}};  // where scales overflow: it must show
  float extreme = 0.0f;
  for (const float value : values) {
    if (std::fabs(value) > std::fabs(extreme)) extreme = value;
  }
  Int4Values best = round_int4(values, extreme / -8.0f);
  for (const float steps : {-7.0f, -7.4f, -8.6f}) {
    const Int4Values next = round_int4(values, extreme / steps);
    if (next.error < best.error) best = next;
  }
  float product = 0.0f;
  float square = 0.0f;
  for (std::size_t k = 0; k < kGroup; ++k) {
    product += values[k] * best.q[k];
    square += best.q[k] * best.q[k];
  }
  if (square == 0.0f) return best;
  const Int4Values fitted = round_int4(values, product / square);
  return fitted.error < best.error ? fitted : best;
}

// Inputs k and k + 16 of a row's group share a byte.
void put_nibbles(std::span<std::byte> weights, std::size_t row, std::size_t k, unsigned low,
                 unsigned high) {
  weights[k / 4 * 64 + row * 4 + k % 4] = static_cast<std::byte>(low | high << 4);
}

void pack_rounded_int4_group(const PanelSource& s, std::size_t group, std::span<std::byte> out) {
  const IntGroupPlace place = int_group_place(group, kInt4GroupBytes);
  const std::size_t begin = group * kGroup;
  const std::size_t n = std::min(kGroup, s.cols - begin);
  for (std::size_t r = 0; r < s.rows; ++r) {
    float values[kGroup] = {};
    s.values(r, begin, std::span(values).first(n));
    const Int4Values rounded = choose_int4(values);
    std::memcpy(out.data() + place.scales + r * 2, &rounded.scale, 2);
    for (std::size_t k = 0; k < kGroup / 2; ++k) {
      const auto low = static_cast<unsigned>(static_cast<int>(rounded.q[k]) + 8);
      const auto high = static_cast<unsigned>(static_cast<int>(rounded.q[k + kGroup / 2]) + 8);
      put_nibbles(out.subspan(place.weights), r, k, low, high);
    }
  }
}

// The four nibbles of `half`, lowest first, as four bytes.
std::uint32_t spread_nibbles(std::uint32_t half) {
  const std::uint32_t bytes = (half | (half << 8)) & 0x00ff00ffu;
  return (bytes | (bytes << 4)) & 0x0f0f0f0fu;
}

void pack_int4_group(const PanelSource& s, std::size_t group, std::span<std::byte> out) {
  const IntGroupPlace place = int_group_place(group, kInt4GroupBytes);
  const SourceMatrix& m = s.matrix;
  const std::size_t source_group = s.col / kGroup + group;
  for (std::size_t r = 0; r < s.rows; ++r) {
    const std::size_t row = s.row + r;
    std::memcpy(out.data() + place.scales + r * 2,
                m.scales.data() + (row * (m.cols / kGroup) + source_group) * 2, 2);
    std::uint16_t halves[8];
    std::memcpy(halves, m.weights.data() + row * (m.cols / 2) + source_group * 16, sizeof halves);
    for (std::size_t word = 0; word < 4; ++word) {
      const std::uint32_t both =
          spread_nibbles(halves[word]) | (spread_nibbles(halves[word + 4]) << 4);
      std::memcpy(out.data() + place.weights + word * 64 + r * 4, &both, sizeof both);
    }
  }
}

void pack_mxfp4_group(const PanelSource& s, std::size_t group, std::span<std::byte> out) {
  const IntGroupPlace place = int_group_place(group, kInt4GroupBytes);
  const std::size_t col = s.col + group * kGroup;
  for (std::size_t r = 0; r < s.rows; ++r) {
    const std::uint16_t scale = mxfp4_half_scale(s.matrix, s.row + r, col);
    std::memcpy(out.data() + place.scales + r * 2, &scale, 2);
    for (std::size_t k = 0; k < kGroup / 2; ++k) {
      const unsigned low = mxfp4_code(s.matrix, s.row + r, col + k);
      const unsigned high = mxfp4_code(s.matrix, s.row + r, col + k + kGroup / 2);
      put_nibbles(out.subspan(place.weights), r, k, low, high);
    }
  }
}

void put_f32(std::span<std::byte> out, std::size_t offset, float value) {
  std::memcpy(out.data() + offset, &value, sizeof value);
}

// The codes of a row's group: two units.
void put_codes(std::span<std::byte> weights, std::size_t row, const Unit& low, const Unit& high) {
  for (std::size_t k = 0; k < kUnit; ++k) {
    if (weights.size() == kInt4GroupBytes) {
      put_nibbles(weights, row, k, low.codes[k], high.codes[k]);
      continue;
    }
    weights[k / 4 * 64 + row * 4 + k % 4] = static_cast<std::byte>(low.codes[k]);
    weights[(k / 4 + 4) * 64 + row * 4 + k % 4] = static_cast<std::byte>(high.codes[k]);
  }
}

// Both halves of a group have the same scale and offset, but for int8_halves.
void pack_affine_group(const PanelSource& s, PackedFormat format, std::size_t group,
                       std::span<std::byte> out) {
  const std::size_t bytes = int_group_bytes(format);
  const IntGroupPlace place = affine_group_place(group, bytes);
  const std::size_t first = (s.col + group * kGroup) / kUnit;
  const bool halves = format == PackedFormat::kInt8Halves;
  for (std::size_t r = 0; r < s.rows; ++r) {
    const Unit low = read_unit(s.matrix, s.row + r, first);
    const Unit high = read_unit(s.matrix, s.row + r, first + 1);
    put_f32(out, place.scales + r * 4, low.scale);
    put_f32(out, place.scales + 64 + r * 4, halves ? high.scale : low.folded_offset());
    put_codes(out.subspan(place.weights, bytes), r, low, high);
  }
}

// int8 and int4 out of codes with the same zero and with bf16 scales.
void pack_kept_group(const PanelSource& s, PackedFormat format, std::size_t group,
                     std::span<std::byte> out) {
  const std::size_t bytes = int_group_bytes(format);
  const IntGroupPlace place = int_group_place(group, bytes);
  const std::size_t first = (s.col + group * kGroup) / kUnit;
  for (std::size_t r = 0; r < s.rows; ++r) {
    const Unit low = read_unit(s.matrix, s.row + r, first);
    const std::uint16_t scale = float_to_bf16(low.scale);
    std::memcpy(out.data() + place.scales + r * 2, &scale, sizeof scale);
    put_codes(out.subspan(place.weights, bytes), r, low, read_unit(s.matrix, s.row + r, first + 1));
  }
}

// Rows beyond the matrix hold true zero: 128 and 8 stand for it in the integer formats.
void fill_padding(PackedFormat format, std::size_t n_groups, std::span<std::byte> out) {
  std::memset(out.data(), 0, out.size());
  if (format != PackedFormat::kInt8 && format != PackedFormat::kInt4) return;
  const bool int8 = format == PackedFormat::kInt8;
  const std::size_t bytes = int_group_bytes(format);
  for (std::size_t g = 0; g < n_groups; ++g) {
    std::memset(out.data() + int_group_place(g, bytes).weights, int8 ? 0x80 : 0x88, bytes);
  }
}

}  // namespace

std::string_view name(PackedFormat format) {
  switch (format) {
    case PackedFormat::kF32:
      return "f32";
    case PackedFormat::kF16:
      return "f16";
    case PackedFormat::kBF16:
      return "bf16";
    case PackedFormat::kFp8:
      return "fp8";
    case PackedFormat::kInt8:
      return "int8";
    case PackedFormat::kInt4:
      return "int4";
    case PackedFormat::kMxfp4:
      return "mxfp4";
    case PackedFormat::kInt4Affine:
      return "int4-affine";
    case PackedFormat::kInt8Affine:
      return "int8-affine";
    case PackedFormat::kInt8Halves:
      return "int8-halves";
  }
  return "?";
}

PackedFormat native_format(SourceFormat format) {
  switch (format) {
    case SourceFormat::kF32:
      return PackedFormat::kF32;
    case SourceFormat::kF16:
      return PackedFormat::kF16;
    case SourceFormat::kBF16:
      return PackedFormat::kBF16;
    case SourceFormat::kFp8Block:
      return PackedFormat::kFp8;
    case SourceFormat::kInt4Group:
    case SourceFormat::kPackedBf16x4:
      return PackedFormat::kInt4;
    case SourceFormat::kPackedBf16x8:
      return PackedFormat::kInt8;
    case SourceFormat::kMxfp4:
    case SourceFormat::kGgufMxfp4:
      return PackedFormat::kMxfp4;
    case SourceFormat::kQ4_0:
    case SourceFormat::kQ4_1:
    case SourceFormat::kQ4K:
    case SourceFormat::kMlx4:
    case SourceFormat::kPacked4:
      return PackedFormat::kInt4Affine;
    case SourceFormat::kQ5_0:
    case SourceFormat::kQ5_1:
    case SourceFormat::kQ8_0:
    case SourceFormat::kIq4Nl:
    case SourceFormat::kQ5K:
    case SourceFormat::kIq4Xs:
    case SourceFormat::kMlx8:
    case SourceFormat::kPacked8:
      return PackedFormat::kInt8Affine;
    case SourceFormat::kQ6K:
      return PackedFormat::kInt8Halves;
    case SourceFormat::kHeads:
      return PackedFormat::kF32;
  }
  return PackedFormat::kF32;
}

bool keeps_groups(SourceFormat source, PackedFormat format) {
  return is_block_format(source) && format == native_format(source);
}

std::size_t panel_bytes(PackedFormat format, std::size_t cols, std::size_t block_offset) {
  const std::size_t n_groups = groups(cols);
  const std::size_t scale_lines = (n_groups + 1) / 2 * kScaleLineBytes;
  switch (format) {
    case PackedFormat::kF32:
      return cols * kPanelRows * 4;
    case PackedFormat::kF16:
    case PackedFormat::kBF16:
      return cols * kPanelRows * 2;
    case PackedFormat::kFp8: {
      const std::size_t blocks = cols == 0 ? 0 : (block_offset + cols - 1) / kFp8BlockSize + 1;
      return cols * kPanelRows + blocks * kFp8ScaleBytes;
    }
    case PackedFormat::kInt8:
      return n_groups * kInt8GroupBytes + scale_lines;
    case PackedFormat::kInt4:
    case PackedFormat::kMxfp4:
      return n_groups * kInt4GroupBytes + scale_lines;
    case PackedFormat::kInt4Affine:
    case PackedFormat::kInt8Affine:
    case PackedFormat::kInt8Halves:
      return n_groups * (kAffineScaleBytes + int_group_bytes(format));
  }
  return 0;
}

std::size_t packed_bytes(PackedFormat format, std::size_t rows, std::size_t cols,
                         std::size_t block_offset) {
  return (rows + kPanelRows - 1) / kPanelRows * panel_bytes(format, cols, block_offset);
}

// NOLINTNEXTLINE(readability-function-size): a sub-matrix, and how it is packed
void pack_panel(const SourceMatrix& source, Range rows, Range cols, bool transposed,
                PackedFormat format, std::size_t panel, std::span<std::byte> out) {
  CHECK(rows.end <= source.rows && cols.end <= source.cols);
  const Range lanes = transposed ? cols : rows;
  const Range inputs = transposed ? rows : cols;
  const std::size_t first = lanes.begin + panel * kPanelRows;
  CHECK(first < lanes.end);
  const PanelSource s{source,        first,
                      inputs.begin,  std::min(kPanelRows, lanes.end - first),
                      inputs.size(), transposed};
  const std::size_t block_offset = format == PackedFormat::kFp8 ? inputs.begin % kFp8BlockSize : 0;
  CHECK(out.size() == panel_bytes(format, s.cols, block_offset));
  const std::size_t n_groups = groups(s.cols);
  const bool keeps = keeps_groups(source.format, format);
  if (keeps) {
    CHECK(!transposed && s.col % kGroup == 0 && s.cols % kGroup == 0);
  }
  fill_padding(format, n_groups, out);
  switch (format) {
    case PackedFormat::kF32:
      return source.format == SourceFormat::kF32 ? pack_plain(s, 4, out) : pack_f32(s, out);
    case PackedFormat::kF16:
    case PackedFormat::kBF16:
      CHECK(native_format(source.format) == format);
      return pack_plain(s, 2, out);
    case PackedFormat::kFp8:
      CHECK(source.format == SourceFormat::kFp8Block);
      return pack_fp8(s, block_offset, out);
    case PackedFormat::kInt8:
      for (std::size_t g = 0; g < n_groups; ++g) {
        keeps ? pack_kept_group(s, format, g, out) : pack_int8_group(s, g, out);
      }
      return;
    case PackedFormat::kInt4:
      if (source.format != SourceFormat::kInt4Group) {
        for (std::size_t g = 0; g < n_groups; ++g) {
          keeps ? pack_kept_group(s, format, g, out) : pack_rounded_int4_group(s, g, out);
        }
        return;
      }
      for (std::size_t g = 0; g < n_groups; ++g) pack_int4_group(s, g, out);
      return;
    case PackedFormat::kMxfp4:
      CHECK(native_format(source.format) == format);
      for (std::size_t g = 0; g < n_groups; ++g) pack_mxfp4_group(s, g, out);
      return;
    case PackedFormat::kInt4Affine:
    case PackedFormat::kInt8Affine:
    case PackedFormat::kInt8Halves:
      CHECK(native_format(source.format) == format);
      for (std::size_t g = 0; g < n_groups; ++g) pack_affine_group(s, format, g, out);
      return;
  }
}

}  // namespace conclave::kernels
