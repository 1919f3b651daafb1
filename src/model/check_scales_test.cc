#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "model/table.h"

namespace conclave::model {
namespace {

using kernels::SourceFormat;
using kernels::SourceMatrix;

TEST(CheckScales, FindsTheFirstBadInt4Scale) {
  std::vector<std::uint16_t> scales(100 * 40, 0x3f80);
  const SourceMatrix matrix{
      SourceFormat::kInt4Group, 100, 40 * 32, {}, std::as_bytes(std::span(scales))};
  EXPECT_TRUE(check_scales(matrix, "f: t"));
  for (const unsigned bad : {0x7f80u, 0xff80u, 0x7fc0u, 0xffffu}) {
    scales[57 * 40 + 3] = static_cast<std::uint16_t>(bad);
    const auto result = check_scales(matrix, "f: t");
    ASSERT_FALSE(result) << bad;
    EXPECT_EQ(result.error().code, ErrorCode::kCorrupt);
    EXPECT_EQ(result.error().message,
              "f: t.weight_scale: [57, 3] is NaN or infinite, expected a finite number");
  }
}

TEST(CheckScales, LargeAndNegativeScalesAreFine) {
  const std::vector<std::uint16_t> scales = {0x7f7f, 0xff7f, 0x0000, 0x8001};
  const SourceMatrix matrix{SourceFormat::kInt4Group, 4, 32, {}, std::as_bytes(std::span(scales))};
  EXPECT_TRUE(check_scales(matrix, "f: t"));
}

TEST(CheckScales, Fp8ChecksScalesAndCodes) {
  std::vector<float> scales(2, 1.0f);
  std::vector<std::uint8_t> codes(3 * 200, 0x7e);
  const SourceMatrix matrix{SourceFormat::kFp8Block, 3, 200, std::as_bytes(std::span(codes)),
                            std::as_bytes(std::span(scales))};
  EXPECT_TRUE(check_scales(matrix, "f: t"));
  codes.back() = 0x7f;
  EXPECT_EQ(check_scales(matrix, "f: t").error().message,
            "f: t.weight: [2, 199] is NaN or infinite, expected a finite number");
  scales[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(check_scales(matrix, "f: t").error().message,
            "f: t.weight_scale_inv: [0, 1] is NaN or infinite, expected a finite number");
}

TEST(FirstNotFinite, FindsBadValuesOfEveryPlainType) {
  const auto find = [](SourceFormat format, const auto& values) {
    return first_not_finite({format, 1, values.size(), std::as_bytes(std::span(values)), {}});
  };
  std::vector<std::uint16_t> bf16(3000, 0xff7f);
  std::vector<std::uint16_t> f16(3000, 0xfbff);
  std::vector<float> f32(3000, std::numeric_limits<float>::lowest());
  EXPECT_EQ(find(SourceFormat::kBF16, bf16), std::nullopt);
  EXPECT_EQ(find(SourceFormat::kF16, f16), std::nullopt);
  EXPECT_EQ(find(SourceFormat::kF32, f32), std::nullopt);
  bf16[2999] = 0xff80;
  f16[2047] = 0x7c01;
  f32[0] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(find(SourceFormat::kBF16, bf16), 2999u);
  EXPECT_EQ(find(SourceFormat::kF16, f16), 2047u);
  EXPECT_EQ(find(SourceFormat::kF32, f32), 0u);
  EXPECT_EQ(find(SourceFormat::kInt4Group, bf16), std::nullopt);
}

// 3e38 is finite, but 255 times it is not, and another infinity beside it makes NaN.
TEST(CheckScales, StreamsMustNotReachInfinity) {
  for (const int bits : {0x7f61, 0xff61, 0x7a80}) {
    const auto large = static_cast<std::uint16_t>(bits);
    const std::vector<std::uint16_t> scales = {0x3f80, large};
    SourceMatrix matrix{SourceFormat::kMlx8, 2, 32, {}, std::as_bytes(std::span(scales))};
    matrix.group = 32;
    EXPECT_FALSE(check_scales(matrix, "m")) << large;
  }
  const std::vector<std::uint16_t> scales = {0x3f80, 0x7a7f};
  SourceMatrix good{SourceFormat::kMlx8, 2, 32, {}, std::as_bytes(std::span(scales))};
  good.group = 32;
  EXPECT_TRUE(check_scales(good, "m"));
}

// Every block format: its own scale made NaN, at its own place.
TEST(CheckScales, BlocksOfGguf) {
  const std::tuple<SourceFormat, std::size_t, std::size_t, std::size_t> formats[] = {
      {SourceFormat::kQ4_0, 32, 18, 0},      {SourceFormat::kQ4_1, 32, 20, 2},
      {SourceFormat::kQ5_0, 32, 22, 0},      {SourceFormat::kQ5_1, 32, 24, 2},
      {SourceFormat::kQ8_0, 32, 34, 0},      {SourceFormat::kIq4Nl, 32, 18, 0},
      {SourceFormat::kQ4K, 256, 144, 2},     {SourceFormat::kQ5K, 256, 176, 0},
      {SourceFormat::kQ6K, 256, 210, 208},   {SourceFormat::kIq4Xs, 256, 136, 0},
      {SourceFormat::kGgufMxfp4, 32, 17, 0},
  };
  for (const auto& [format, inputs, bytes, place] : formats) {
    std::vector<std::byte> blocks(6 * bytes);
    const SourceMatrix matrix{format, 3, 2 * inputs, blocks, {}};
    EXPECT_TRUE(check_scales(matrix, "m"));
    blocks[5 * bytes + place] = std::byte{0xff};
    if (format != SourceFormat::kGgufMxfp4) blocks[5 * bytes + place + 1] = std::byte{0x7e};
    EXPECT_EQ(check_scales(matrix, "x.gguf: m", 10).error().message,
              "x.gguf: m: row 12, block 1: the scale is NaN or infinite, expected a finite number");
  }
}

}  // namespace
}  // namespace conclave::model
