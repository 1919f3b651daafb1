#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "model/model.h"

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

}  // namespace
}  // namespace conclave::model
