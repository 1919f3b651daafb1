// The scalar code against plain double arithmetic, and every instruction set against the scalar
// code, bit for bit.
#include "kernels/kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/number_formats.h"
#include "base/rng.h"
#include "kernels/isa_tables.h"
#include "kernels/test_matrix.h"

namespace conclave::kernels {
namespace {

struct Packed {
  std::vector<std::byte> bytes;
  PackedMatrix matrix;
};

Packed pack(const TestMatrix& m, PackedFormat format, Range rows, Range cols, bool transposed) {
  const Range lanes = transposed ? cols : rows;
  const Range inputs = transposed ? rows : cols;
  const std::size_t offset = format == PackedFormat::kFp8 ? inputs.begin % kFp8BlockSize : 0;
  Packed out;
  out.bytes.resize(packed_bytes(format, lanes.size(), inputs.size(), offset));
  const std::size_t bytes = panel_bytes(format, inputs.size(), offset);
  out.matrix = {format, lanes.size(), inputs.size(), offset, out.bytes};
  for (std::size_t p = 0; p < out.matrix.panels(); ++p) {
    pack_panel(m.view(), rows, cols, transposed, format, p,
               std::span(out.bytes).subspan(p * bytes, bytes));
  }
  return out;
}

Packed pack(const TestMatrix& m, PackedFormat format) {
  return pack(m, format, {0, m.rows}, {0, m.cols}, false);
}

struct TestActivations {
  std::vector<float> x, scale;
  std::vector<std::int8_t> q;
  std::vector<std::int32_t> sum;
  Activations view;
};

TestActivations make_activations(const Operations& ops, std::size_t tokens, std::size_t cols,
                                 std::uint64_t seed) {
  TestActivations a;
  SplitMix rng(seed);
  a.x.resize(tokens * cols);
  for (float& v : a.x) v = normal(rng);
  a.q.resize(tokens * padded_cols(cols));
  a.scale.resize(tokens * groups(cols));
  a.sum.resize(tokens * groups(cols));
  for (std::size_t t = 0; t < tokens; ++t) {
    ops.quantize_row(std::span(a.x).subspan(t * cols, cols), a.q.data() + t * padded_cols(cols),
                     a.scale.data() + t * groups(cols), a.sum.data() + t * groups(cols));
  }
  a.view = {tokens, cols, a.x.data(), cols, a.q.data(), a.scale.data(), a.sum.data()};
  return a;
}

std::vector<float> multiply(const Operations& ops, bool exact, const Packed& w,
                            const TestActivations& x) {
  const std::size_t stride = w.matrix.panels() * kPanelRows;
  std::vector<float> y(x.view.tokens * stride, -1.0f);
  (exact ? ops.gemm_exact : ops.gemm)(w.matrix, {0, w.matrix.panels()}, x.view, y.data(), stride);
  return y;
}

struct Case {
  SourceFormat source;
  PackedFormat packed;
  std::size_t rows, cols;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (auto f = SourceFormat::kF32; f < SourceFormat::kHeads;
       f = static_cast<SourceFormat>(static_cast<int>(f) + 1)) {
    const bool large_blocks = f >= SourceFormat::kQ4K && f <= SourceFormat::kIq4Xs;
    for (const std::size_t rows : {16u, 80u, 150u}) {
      for (const std::size_t cols : {32u, 96u, 288u}) {
        const std::size_t whole = large_blocks ? (cols + 255) / 256 * 256 : cols;
        cases.push_back({f, native_format(f), rows, whole});
        if (is_integer(native_format(f))) continue;
        cases.push_back({f, PackedFormat::kInt8, rows, cols});
      }
    }
  }
  cases.push_back({SourceFormat::kBF16, PackedFormat::kInt8, 33, 50});
  cases.push_back({SourceFormat::kBF16, PackedFormat::kInt4, 33, 50});
  cases.push_back({SourceFormat::kBF16, PackedFormat::kBF16, 33, 50});
  cases.push_back({SourceFormat::kBF16, PackedFormat::kF32, 33, 50});
  return cases;
}

TEST(Pack, KeepsValuesExactlyInNativeFormats) {
  for (const Case& c : all_cases()) {
    const bool rounded = c.packed == PackedFormat::kInt8 || c.packed == PackedFormat::kInt4;
    if (rounded && native_format(c.source) != c.packed) continue;
    const TestMatrix m = make_matrix(c.source, c.rows, c.cols, 1);
    const Packed packed = pack(m, c.packed);
    std::vector<float> expected(c.cols), found(c.cols);
    for (std::size_t r = 0; r < c.rows; ++r) {
      dequantize_row(m.view(), r, 0, expected);
      unpack_row(packed.matrix, r, found);
      ASSERT_EQ(expected, found) << name(c.packed) << " row " << r;
    }
  }
}

TEST(Pack, Int8StaysWithinHalfAStep) {
  const TestMatrix m = make_matrix(SourceFormat::kBF16, 48, 96, 2);
  const Packed packed = pack(m, PackedFormat::kInt8);
  std::vector<float> expected(96), found(96);
  for (std::size_t r = 0; r < m.rows; ++r) {
    dequantize_row(m.view(), r, 0, expected);
    unpack_row(packed.matrix, r, found);
    for (std::size_t g = 0; g < 3; ++g) {
      float absmax = 0.0f;
      for (std::size_t k = 0; k < 32; ++k)
        absmax = std::max(absmax, std::fabs(expected[g * 32 + k]));
      for (std::size_t k = 0; k < 32; ++k) {
        EXPECT_LE(std::fabs(expected[g * 32 + k] - found[g * 32 + k]), absmax / 127.0f * 0.51f);
      }
    }
  }
}

// 0.09 of the deviation is what one extreme value a group leaves; a worse rule leaves more.
TEST(Pack, Int4RoundsWithALittleError) {
  const TestMatrix m = make_matrix(SourceFormat::kF32, 33, 320, 12);
  const Packed packed = pack(m, PackedFormat::kInt4);
  double error = 0.0;
  double size = 0.0;
  for (std::size_t row = 0; row < m.rows; ++row) {
    std::vector<float> kept(m.cols), original(m.cols);
    unpack_row(packed.matrix, row, kept);
    dequantize_row(m.view(), row, 0, original);
    for (std::size_t c = 0; c < m.cols; ++c) {
      error += std::pow(double{kept[c]} - original[c], 2);
      size += std::pow(double{original[c]}, 2);
    }
  }
  EXPECT_LT(std::sqrt(error / size), 0.085);
}

// What INT4 can say comes through unchanged, whichever end of its range is used.
TEST(Pack, Int4KeepsWhatItCanSay) {
  for (const int farthest : {-8, 7, -7}) {
    TestMatrix m{SourceFormat::kF32, 16, 50, {}, {}};
    SplitMix rng(13);
    std::vector<float> values;
    for (std::size_t i = 0; i < m.rows * m.cols; ++i) {
      const int q = i % m.cols % 16 == 0 ? farthest : static_cast<int>(rng.next() % 14) - 7;
      values.push_back(static_cast<float>(q) * 0.125f);
      append(m.weights, values.back());
    }
    const Packed packed = pack(m, PackedFormat::kInt4);
    for (std::size_t row = 0; row < m.rows; ++row) {
      std::vector<float> kept(m.cols);
      unpack_row(packed.matrix, row, kept);
      for (std::size_t c = 0; c < m.cols; ++c) {
        ASSERT_EQ(kept[c], values[row * m.cols + c]) << farthest << " " << row << " " << c;
      }
    }
  }
}

// Every code and every scale. docs/models.md 5.4.
TEST(Pack, Mxfp4IsExact) {
  const float values[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, 0, -.5f, -1, -1.5f, -2, -3, -4, -6};
  TestMatrix m{SourceFormat::kMxfp4, 255, 32, {}, {}};
  for (std::size_t row = 0; row < m.rows; ++row) {
    for (unsigned i = 0; i < 16; ++i) {
      append(m.weights, static_cast<std::uint8_t>(i | ((i + row) % 16) << 4));
    }
    append(m.scales, static_cast<std::uint8_t>(row));
  }
  const Packed packed = pack(m, PackedFormat::kMxfp4);
  for (std::size_t row = 0; row < m.rows; ++row) {
    std::vector<float> kept(32), read(32);
    unpack_row(packed.matrix, row, kept);
    dequantize_row(m.view(), row, 0, read);
    for (std::size_t c = 0; c < 32; ++c) {
      const std::size_t code = c % 2 == 0 ? c / 2 : (c / 2 + row) % 16;
      const float expected = std::ldexp(values[code], static_cast<int>(row) - 127);
      ASSERT_EQ(kept[c], expected) << row << " " << c;
      ASSERT_EQ(read[c], expected) << row << " " << c;
    }
  }
}

// gate and up of gpt-oss take turns in one tensor.
TEST(Pack, Mxfp4RowsMayLieApart) {
  const TestMatrix both = make_matrix(SourceFormat::kMxfp4, 40, 64, 5);
  SourceMatrix second = both.view();
  second.rows = 20;
  second.row_step = 2;
  second.weights = second.weights.subspan(32);
  second.scales = second.scales.subspan(2);
  std::vector<std::byte> bytes(panel_bytes(PackedFormat::kMxfp4, 64, 0));
  pack_panel(second, {0, 20}, {0, 64}, false, PackedFormat::kMxfp4, 1, bytes);
  const PackedMatrix panel = {PackedFormat::kMxfp4, 4, 64, 0, bytes};
  std::vector<float> kept(64), expected(64);
  for (std::size_t row = 0; row < 4; ++row) {
    unpack_row(panel, row, kept);
    dequantize_row(both.view(), 2 * (16 + row) + 1, 0, expected);
    EXPECT_EQ(kept, expected);
  }
}

TEST(Pack, Int4OfZerosIsZero) {
  const TestMatrix m{SourceFormat::kF32, 1, 32, std::vector<std::byte>(128), {}};
  std::vector<float> kept(32, 1.0f);
  unpack_row(pack(m, PackedFormat::kInt4).matrix, 0, kept);
  EXPECT_EQ(kept, std::vector<float>(32, 0.0f));
}

TEST(Pack, SlicesAndTransposesKeepValues) {
  const TestMatrix m = make_matrix(SourceFormat::kFp8Block, 300, 260, 3);
  std::vector<float> whole(260), part;
  const Packed slice = pack(m, PackedFormat::kFp8, {32, 256}, {96, 224}, false);
  part.resize(128);
  for (std::size_t r = 0; r < 224; ++r) {
    dequantize_row(m.view(), 32 + r, 0, whole);
    unpack_row(slice.matrix, r, part);
    for (std::size_t c = 0; c < 128; ++c) ASSERT_EQ(part[c], whole[96 + c]);
  }
  const Packed transposed = pack(m, PackedFormat::kFp8, {40, 104}, {0, 260}, true);
  part.resize(64);
  for (std::size_t c = 0; c < 260; ++c) {
    unpack_row(transposed.matrix, c, part);
    for (std::size_t r = 0; r < 64; ++r) {
      dequantize_row(m.view(), 40 + r, 0, whole);
      ASSERT_EQ(part[r], whole[c]);
    }
  }
}

TEST(Pack, BytesPerWeight) {
  EXPECT_EQ(packed_bytes(PackedFormat::kInt8, 7168, 2048, 0), 7168u * 2048u * 17u / 16u);
  EXPECT_EQ(packed_bytes(PackedFormat::kInt4, 2048, 7168, 0), 2048u * 7168u * 9u / 16u);
}

TEST(Gemm, ScalarExactMatchesDouble) {
  const Operations& ops = operations(Isa::kScalar);
  for (const Case& c : all_cases()) {
    const TestMatrix m = make_matrix(c.source, c.rows, c.cols, 4);
    const Packed packed = pack(m, c.packed);
    const TestActivations x = make_activations(ops, 3, c.cols, 5);
    const std::vector<float> y = multiply(ops, true, packed, x);
    std::vector<float> row(c.cols);
    for (std::size_t r = 0; r < c.rows; ++r) {
      unpack_row(packed.matrix, r, row);
      for (std::size_t t = 0; t < 3; ++t) {
        double sum = 0.0, size = 0.0;
        for (std::size_t k = 0; k < c.cols; ++k) {
          sum += static_cast<double>(row[k]) * x.x[t * c.cols + k];
          size += std::fabs(static_cast<double>(row[k]) * x.x[t * c.cols + k]);
        }
        EXPECT_NEAR(y[t * packed.matrix.panels() * 16 + r], sum, 1e-5 * size + 1e-9);
      }
    }
  }
}

TEST(Gemm, ScalarFastIsCloseToExact) {
  const Operations& ops = operations(Isa::kScalar);
  const TestMatrix m = make_matrix(SourceFormat::kInt4Group, 64, 512, 6);
  const Packed packed = pack(m, PackedFormat::kInt4);
  const TestActivations x = make_activations(ops, 4, 512, 7);
  const std::vector<float> fast = multiply(ops, false, packed, x);
  const std::vector<float> exact = multiply(ops, true, packed, x);
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < fast.size(); ++i) {
    error += std::pow(fast[i] - exact[i], 2);
    size += std::pow(exact[i], 2);
  }
  EXPECT_GT(error, 0.0);
  EXPECT_LT(std::sqrt(error / size), 0.01);
}

// What an affine format stores of a row: the numbers, and two floats a group.
struct AffineGroup {
  float first = 0.0f, second = 0.0f;
  std::int32_t u[kGroup] = {};
};
AffineGroup affine_group(const PackedMatrix& w, std::size_t row, std::size_t group) {
  const bool nibbles = w.format == PackedFormat::kInt4Affine;
  const std::byte* base = w.data.data() + row / kPanelRows * panel_bytes(w.format, w.cols, 0) +
                          group * (128 + (nibbles ? 256 : 512));
  const std::size_t lane = row % kPanelRows;
  AffineGroup out;
  std::memcpy(&out.first, base + lane * 4, 4);
  std::memcpy(&out.second, base + 64 + lane * 4, 4);
  for (std::size_t k = 0; k < kGroup; ++k) {
    const std::size_t at = nibbles ? k % 16 : k;
    const auto byte = std::to_integer<int>(base[128 + at / 4 * 64 + lane * 4 + at % 4]);
    out.u[k] = !nibbles ? byte : k < 16 ? byte & 15 : byte >> 4;
  }
  return out;
}

// The fast specification of kernels.h for the affine formats.
float affine_fast_row(const PackedMatrix& w, std::size_t row, const TestActivations& x) {
  float acc = 0.0f;
  for (std::size_t g = 0; g < groups(w.cols); ++g) {
    const AffineGroup group = affine_group(w, row, g);
    std::int32_t dots[2] = {}, sums[2] = {};
    for (std::size_t k = 0; k < kGroup; ++k) {
      dots[k / 16] += group.u[k] * x.q[g * kGroup + k];
      sums[k / 16] += x.q[g * kGroup + k];
    }
    const float s_a = x.scale[g];
    if (w.format == PackedFormat::kInt8Halves) {
      acc = std::fma(static_cast<float>(dots[0] - 32 * sums[0]), group.first * s_a, acc);
      acc = std::fma(static_cast<float>(dots[1] - 32 * sums[1]), group.second * s_a, acc);
      continue;
    }
    acc = std::fma(static_cast<float>(dots[0] + dots[1]), group.first * s_a, acc);
    acc = std::fma(static_cast<float>(sums[0] + sums[1]), group.second * s_a, acc);
  }
  return acc;
}

// The fast specification of kernels.h as plain loops over one row, from the packed values.
float fast_row(const PackedMatrix& w, std::size_t row, const TestActivations& x) {
  if (w.format >= PackedFormat::kInt4Affine) return affine_fast_row(w, row, x);
  std::vector<float> values(w.cols);
  unpack_row(w, row, values);
  float acc = 0.0f;
  for (std::size_t g = 0; g < groups(w.cols); ++g) {
    const std::size_t n = std::min(kGroup, w.cols - g * kGroup);
    // The scale is the one value that unpack_row does not show: q = value / scale is an integer.
    const std::byte* panel = w.data.data() + row / kPanelRows * panel_bytes(w.format, w.cols, 0);
    const std::size_t group_bytes = w.format == PackedFormat::kInt8 ? 512 : 256;
    std::uint16_t bits;
    std::memcpy(&bits, panel + g / 2 * (64 + 2 * group_bytes) + g % 2 * 32 + row % kPanelRows * 2,
                sizeof bits);
    const float scale = bf16_to_float(bits);
    std::int32_t dot = 0;
    for (std::size_t k = 0; k < n; ++k) {
      const float q = scale == 0.0f ? 0.0f : values[g * kGroup + k] / scale;
      dot += static_cast<std::int32_t>(std::lrint(q)) * x.q[g * kGroup + k];
    }
    acc = std::fma(static_cast<float>(dot), scale * x.scale[g], acc);
  }
  return acc;
}

TEST(Gemm, FastIntegersFollowTheSpecificationBitForBit) {
  const Operations& ops = operations(Isa::kScalar);
  for (const Case& c : all_cases()) {
    if (!is_integer(c.packed)) continue;
    const TestMatrix m = make_matrix(c.source, c.rows, c.cols, 12);
    const Packed packed = pack(m, c.packed);
    const TestActivations x = make_activations(ops, 1, c.cols, 13);
    const std::vector<float> y = multiply(ops, false, packed, x);
    for (std::size_t r = 0; r < c.rows; ++r) {
      ASSERT_EQ(y[r], fast_row(packed.matrix, r, x)) << name(c.packed) << " row " << r;
    }
  }
}

// What cannot be rounded to int8 must not vanish in it.
TEST(Vectors, NanAndInfinityComeThrough) {
  for (const Isa isa : available_isas()) {
    const Operations& ops = operations(isa);
    for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      for (const std::size_t place : {0u, 20u, 31u}) {
        std::vector<float> x(32, 1.0f);
        x[place] = bad;
        std::int8_t q[32];
        float scale = 0.0f;
        std::int32_t sum = 1;
        ops.quantize_row(x, q, &scale, &sum);
        EXPECT_TRUE(std::isnan(scale)) << name(isa) << " " << bad;
        EXPECT_EQ(sum, 0);
      }
    }
    std::vector<float> tiny(32, 1e-38f);
    std::int8_t q[32];
    float scale = 1.0f;
    std::int32_t sum = 1;
    ops.quantize_row(tiny, q, &scale, &sum);
    EXPECT_EQ(scale, 0.0f);
    const float nan = std::nanf("");
    float y = 0.0f;
    ops.sigmoid(std::span(&nan, 1), &y);
    EXPECT_TRUE(std::isnan(y)) << name(isa);
  }
}

// All that this machine can run, with both ways of reading weights.
std::vector<std::pair<std::string, Operations>> all_operations() {
  std::vector<std::pair<std::string, Operations>> all;
  for (const Isa isa : available_isas()) all.emplace_back(name(isa), operations(isa));
  for (const bool sequential : {false, true}) {
    const std::string how = sequential ? " sequential" : " interleaved";
    if (const auto ops = avx2_operations(sequential)) all.emplace_back("avx2" + how, *ops);
    if (const auto ops = avx512_operations(sequential)) all.emplace_back("avx512" + how, *ops);
  }
  return all;
}

// Every instruction set, every format, every number of tokens: the scalar code's bits.
TEST(Gemm, EveryIsaGivesTheScalarBits) {
  const Operations& scalar = operations(Isa::kScalar);
  for (const auto& [isa, ops] : all_operations()) {
    for (const Case& c : all_cases()) {
      const TestMatrix m = make_matrix(c.source, c.rows, c.cols, 8);
      const Packed packed = pack(m, c.packed);
      for (const std::size_t tokens : {1u, 2u, 7u, 19u}) {
        const TestActivations x = make_activations(scalar, tokens, c.cols, 9 + tokens);
        for (const bool exact : {false, true}) {
          ASSERT_EQ(multiply(scalar, exact, packed, x), multiply(ops, exact, packed, x))
              << isa << " " << name(c.packed) << " " << c.rows << "x" << c.cols << " tokens "
              << tokens << " exact " << exact;
        }
      }
    }
  }
}

// A row's bits do not depend on which other tokens share the call, nor on the panels asked for.
TEST(Gemm, RowsDoNotDependOnBatchOrRange) {
  for (const Isa isa : available_isas()) {
    const Operations& ops = operations(isa);
    const TestMatrix m = make_matrix(SourceFormat::kInt4Group, 112, 192, 10);
    const Packed packed = pack(m, PackedFormat::kInt4);
    const TestActivations many = make_activations(ops, 11, 192, 11);
    const std::vector<float> all = multiply(ops, false, packed, many);
    for (std::size_t t = 0; t < 11; ++t) {
      Activations one = many.view;
      one.tokens = 1;
      one.x += t * 192;
      one.q += t * 192;
      one.scale += t * 6;
      one.sum += t * 6;
      float y[32];
      ops.gemm(packed.matrix, {3, 5}, one, y, 32);
      for (std::size_t r = 0; r < 32; ++r) ASSERT_EQ(y[r], all[t * 112 + 48 + r]);
    }
  }
}

TEST(Vectors, EveryIsaGivesTheScalarBitsAtEveryLength) {
  const Operations& scalar = operations(Isa::kScalar);
  for (const Isa isa : available_isas()) {
    const Operations& ops = operations(isa);
    for (std::size_t n = 1; n < 70; ++n) {
      SplitMix rng(n);
      std::vector<float> a(n), b(n);
      for (float& v : a) v = 4.0f * normal(rng);
      for (float& v : b) v = normal(rng);
      std::vector<float> y1(n), y2(n);
      scalar.rms_norm(a, b, 1e-6f, y1.data());
      ops.rms_norm(a, b, 1e-6f, y2.data());
      ASSERT_EQ(y1, y2) << name(isa) << " rms_norm " << n;
      scalar.silu_mul(a, b, y1.data());
      ops.silu_mul(a, b, y2.data());
      ASSERT_EQ(y1, y2) << name(isa) << " silu_mul " << n;
      scalar.clamped_swiglu(a, b, 2.0f, y1.data());
      ops.clamped_swiglu(a, b, 2.0f, y2.data());
      ASSERT_EQ(y1, y2) << name(isa) << " clamped_swiglu " << n;
      for (std::size_t i = 0; i < n; ++i) {
        const double g = std::min(double{a[i]}, 2.0);
        const double u = std::clamp(double{b[i]}, -2.0, 2.0);
        ASSERT_NEAR(y1[i], (u + 1.0) * g / (1.0 + std::exp(-1.702 * g)), 1e-5);
      }
      scalar.exp_minus(a, 1.5f, y1.data());
      ops.exp_minus(a, 1.5f, y2.data());
      ASSERT_EQ(y1, y2) << name(isa) << " exp " << n;
      y1 = y2 = b;
      scalar.axpy(0.7f, a, y1.data());
      ops.axpy(0.7f, a, y2.data());
      ASSERT_EQ(y1, y2) << name(isa) << " axpy " << n;
      const TestActivations q1 = make_activations(scalar, 1, n, n);
      const TestActivations q2 = make_activations(ops, 1, n, n);
      ASSERT_EQ(q1.q, q2.q) << name(isa) << " quantize " << n;
      ASSERT_EQ(q1.scale, q2.scale);
      ASSERT_EQ(q1.sum, q2.sum);
    }
  }
}

TEST(Vectors, AttentionGivesTheScalarBits) {
  const Operations& scalar = operations(Isa::kScalar);
  SplitMix rng(3);
  const std::size_t n = 13, width = 40, heads = 7;
  std::vector<float> rows(n * width), q(heads * width), keep(heads, 0.5f);
  for (float& v : rows) v = normal(rng);
  for (float& v : q) v = normal(rng);
  const CacheBlock keys{rows.data(), n, width, width};
  const CacheBlock values{rows.data(), n, width, 24};
  std::vector<float> scores(heads * n), out(heads * 24, 1.0f);
  scalar.cache_scores(keys, q.data(), width, heads, 0.1f, scores.data());
  scalar.cache_values(values, scores.data(), keep.data(), heads, out.data(), 24);
  for (std::size_t h = 0; h < heads; ++h) {
    double expected = 0.5;
    for (std::size_t s = 0; s < n; ++s) {
      double score = 0.0;
      for (std::size_t i = 0; i < width; ++i)
        score += double{q[h * width + i]} * rows[s * width + i];
      EXPECT_NEAR(scores[h * n + s], 0.1 * score, 1e-5);
      expected += scores[h * n + s] * double{rows[s * width + 5]};
    }
    EXPECT_NEAR(out[h * 24 + 5], expected, 1e-4);
  }
  for (const Isa isa : available_isas()) {
    const Operations& ops = operations(isa);
    std::vector<float> scores2(heads * n), out2(heads * 24, 1.0f);
    ops.cache_scores(keys, q.data(), width, heads, 0.1f, scores2.data());
    ops.cache_values(values, scores2.data(), keep.data(), heads, out2.data(), 24);
    EXPECT_EQ(scores, scores2) << name(isa);
    EXPECT_EQ(out, out2) << name(isa);
  }
}

TEST(Vectors, ExpIsAccurate) {
  for (const Isa isa : available_isas()) {
    const Operations& ops = operations(isa);
    for (float x = -87.0f; x < 88.0f; x += 0.37f) {
      float y = 0.0f;
      ops.exp_minus(std::span(&x, 1), 0.0f, &y);
      EXPECT_NEAR(y / std::exp(double{x}), 1.0, 4e-7) << x;
    }
  }
}

TEST(Isa, UnknownNameListsTheChoices) {
  const Result<Isa> isa = choose_isa("mmx");
  ASSERT_FALSE(isa);
  EXPECT_NE(isa.error().message.find("scalar"), std::string::npos);
  EXPECT_TRUE(choose_isa("scalar"));
  EXPECT_TRUE(choose_isa(""));
}

}  // namespace
}  // namespace conclave::kernels
