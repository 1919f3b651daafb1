#include "text/hold_back.h"

#include <gtest/gtest.h>

#include <vector>

namespace conclave::text {
namespace {

TEST(HoldBack, KeepsTheLongestPossibleBeginning) {
  const std::vector<std::string> patterns{"aab", "abc"};
  EXPECT_EQ(held_size("xaa", patterns), 2u);
  EXPECT_EQ(held_size("xab", patterns), 2u);
  EXPECT_EQ(held_size("x", patterns), 0u);
}

TEST(HoldBack, FindsTheLeftmostThenTheLongest) {
  const std::vector<std::string> patterns{"b", "ab", "abc", ""};
  const auto found = find_first("xxabcb", patterns);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->position, 2u);
  EXPECT_EQ(found->pattern, 2u);
  EXPECT_FALSE(find_first("xyz", patterns));
}

}  // namespace
}  // namespace conclave::text
