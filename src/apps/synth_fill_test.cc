#include "apps/synth_fill.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "base/number_formats.h"

namespace conclave::apps {
namespace {

using formats::DType;

const SynthTables& tables() {
  static const SynthTables shared;
  return shared;
}

SynthTensor tensor_of(SynthFill fill, DType dtype, std::size_t rows, std::size_t cols) {
  SynthTensor tensor;
  tensor.name = "model.layers.0.some.weight";
  tensor.dtype = dtype;
  tensor.shape = {rows, cols};
  tensor.fill = fill;
  tensor.deviation = 1.0f / 32.0f;
  return tensor;
}

std::vector<std::byte> bytes_of(const SynthTensor& tensor, std::uint64_t seed) {
  std::vector<std::byte> bytes(tensor.size_bytes());
  TensorFiller(tables(), tensor, seed).fill(0, bytes);
  return bytes;
}

std::vector<float> bf16_values(const std::vector<std::byte>& bytes) {
  std::vector<float> values;
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + i, sizeof bits);
    values.push_back(bf16_to_float(bits));
  }
  return values;
}

double deviation_of(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float value : values) sum += double{value} * double{value};
  return std::sqrt(sum / static_cast<double>(values.size()));
}

TEST(TensorFiller, PiecesGiveTheSameBytesAsTheWhole) {
  for (const SynthFill fill : {SynthFill::kNormal, SynthFill::kNormalInt8, SynthFill::kOnes}) {
    const SynthTensor tensor = tensor_of(fill, DType::kBF16, 100, 96);
    const std::vector<std::byte> whole = bytes_of(tensor, 5);
    std::vector<std::byte> pieces(whole.size());
    const TensorFiller filler(tables(), tensor, 5);
    for (std::size_t at = 0; at < pieces.size(); at += kFillAlignment) {
      const std::size_t size = std::min(kFillAlignment, pieces.size() - at);
      filler.fill(at, std::span(pieces).subspan(at, size));
    }
    EXPECT_EQ(whole, pieces);
  }
}

TEST(TensorFiller, SeedAndNameChangeTheBytes) {
  SynthTensor tensor = tensor_of(SynthFill::kInt4, DType::kI32, 8, 8);
  const std::vector<std::byte> first = bytes_of(tensor, 1);
  EXPECT_EQ(first, bytes_of(tensor, 1));
  EXPECT_NE(first, bytes_of(tensor, 2));
  tensor.name += 'x';
  EXPECT_NE(first, bytes_of(tensor, 1));
}

TEST(TensorFiller, WeightsHaveTheirDeviation) {
  for (const SynthFill fill : {SynthFill::kNormal, SynthFill::kNormalInt8}) {
    const auto values = bf16_values(bytes_of(tensor_of(fill, DType::kBF16, 512, 128), 1));
    EXPECT_NEAR(deviation_of(values) * 32.0, 1.0, 0.03);
  }
}

// The groups of 32 along rows, and those along columns, hold a value of 127 steps and else whole
// steps.
TEST(TensorFiller, Int8GridIsExactInGroupsOf32) {
  constexpr std::size_t kRows = 64;
  constexpr std::size_t kCols = 96;
  const auto values =
      bf16_values(bytes_of(tensor_of(SynthFill::kNormalInt8, DType::kBF16, kRows, kCols), 1));
  const auto check_group = [&values](std::size_t first, std::size_t stride) {
    float largest = 0.0f;
    for (std::size_t i = 0; i < 32; ++i) {
      largest = std::max(largest, std::fabs(values[first + i * stride]));
    }
    const float step = largest / 127.0f;
    EXPECT_EQ(std::exp2(std::nearbyint(std::log2(step))), step);
    for (std::size_t i = 0; i < 32; ++i) {
      const float q = values[first + i * stride] / step;
      EXPECT_EQ(q, std::nearbyint(q));
    }
  };
  for (std::size_t row = 0; row < kRows; ++row) {
    for (std::size_t col = 0; col < kCols; col += 32) check_group(row * kCols + col, 1);
  }
  for (std::size_t row = 0; row < kRows; row += 32) {
    for (std::size_t col = 0; col < kCols; ++col) check_group(row * kCols + col, kCols);
  }
}

TEST(TensorFiller, Fp8IsNeverNanAndHasItsDeviation) {
  const auto bytes = bytes_of(tensor_of(SynthFill::kFp8, DType::kF8E4M3, 256, 256), 1);
  std::vector<float> values;
  for (const std::byte byte : bytes) {
    values.push_back(e4m3_to_float(static_cast<std::uint8_t>(byte)));
    ASSERT_FALSE(std::isnan(values.back()));
  }
  EXPECT_NEAR(deviation_of(values) / SynthTables::kFp8Deviation, 1.0, 0.03);
}

TEST(TensorFiller, ScalesArePositiveAndDiffer) {
  const auto scales =
      bf16_values(bytes_of(tensor_of(SynthFill::kInt4Scale, DType::kBF16, 64, 8), 1));
  for (const float scale : scales) {
    EXPECT_GT(scale, 0.7f / 32.0f / 4.6f);
    EXPECT_LT(scale, 1.3f / 32.0f / 4.6f);
  }
  EXPECT_NE(scales[0], scales[1]);
}

TEST(TensorFiller, OddLengthsAreFilledToTheEnd) {
  SynthTensor tensor = tensor_of(SynthFill::kNormal, DType::kBF16, 1, 5);
  const auto values = bf16_values(bytes_of(tensor, 3));
  ASSERT_EQ(values.size(), 5u);
  EXPECT_NE(values[4], 0.0f);
}

}  // namespace
}  // namespace conclave::apps
