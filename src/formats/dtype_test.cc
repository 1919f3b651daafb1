#include "formats/dtype.h"

#include <gtest/gtest.h>

#include <array>

namespace conclave::formats {
namespace {

TEST(DType, NamesAndSizesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::kF8E8M0); ++i) {
    const auto dtype = static_cast<DType>(i);
    ASSERT_EQ(parse_dtype(name(dtype)), dtype);
    EXPECT_GT(size_bytes(dtype), 0u);
  }
  EXPECT_EQ(name(DType::kBF16), "BF16");
  EXPECT_EQ(size_bytes(DType::kBF16), 2u);
  EXPECT_EQ(size_bytes(DType::kI64), 8u);
  EXPECT_EQ(size_bytes(DType::kF8E4M3), 1u);
}

TEST(DType, UnknownNameIsAbsent) {
  EXPECT_EQ(parse_dtype("bf16"), std::nullopt);
  EXPECT_EQ(parse_dtype(""), std::nullopt);
}

TEST(ShapeText, ReadsAsAList) {
  EXPECT_EQ(shape_text(std::array<std::size_t, 2>{2048, 896}), "[2048, 896]");
  EXPECT_EQ(shape_text({}), "[]");
}

TEST(Printable, KeepsMessagesOnOneShortLine) {
  EXPECT_EQ(printable("a\nb"), "a?b");
  EXPECT_EQ(printable(std::string(500, 'x')).size(), 163u);
}

}  // namespace
}  // namespace conclave::formats
