#include "collective/summation.h"

#include <gtest/gtest.h>

#include <array>

namespace conclave::collective {
namespace {

TEST(Summation, PackRoundsToTheNearestBf16TiesToEven) {
  const std::array numbers{1.0f, 1.00390625f, 1.01171875f, -3.14159265f};  // 2nd and 3rd: ties
  const std::array expected{1.0f, 1.0f, 1.015625f, -3.140625f};
  std::vector<std::byte> storage;
  const Values packed = pack(numbers, Wire::kBF16, storage);
  EXPECT_EQ(packed.bytes.size(), 8u);
  std::array<float, 4> out{};
  copy_values(packed, out);
  EXPECT_EQ(out, expected);
  std::array rounded = numbers;
  round_to_bf16(rounded);
  EXPECT_EQ(rounded, expected);
}

TEST(Summation, PartsAddWhereTheyLie) {
  const std::array numbers{1.0f, 2.0f, 3.0f, 4.0f};
  std::vector<std::byte> storage;
  for (const Wire wire : {Wire::kF32, Wire::kBF16}) {
    const Values values = pack(numbers, wire, storage);
    ASSERT_EQ(values.size(), 4u);
    std::array out{0.5f, 0.25f};
    add_values(values.part(1, 2), out);
    EXPECT_EQ(out, (std::array{2.5f, 3.25f}));
    add_values(values.part(4, 0), std::span<float>());
  }
}

}  // namespace
}  // namespace conclave::collective
