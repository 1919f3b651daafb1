#include "collective/layout.h"

#include <gtest/gtest.h>

namespace conclave::collective {
namespace {

std::vector<VirtualRank> ranks(std::initializer_list<std::pair<int, int>> group_and_rank) {
  std::vector<VirtualRank> result;
  for (const auto& [group, rank] : group_and_rank) {
    result.push_back({static_cast<std::uint16_t>(group), static_cast<Rank>(rank)});
  }
  return result;
}

TEST(Layout, GroupIsOneTermUnlessItsVirtualRanksAreApart) {
  const Layout layout(ranks({{0, 0}, {0, 0}, {1, 1}, {1, 1}, {2, 0}, {2, 1}}), 3, 1);
  const auto terms = layout.terms();
  ASSERT_EQ(terms.size(), 4u);
  EXPECT_TRUE(terms[0].residual);
  EXPECT_EQ(terms[0].end, 2u);
  EXPECT_EQ(terms[1].rank, 1);
  EXPECT_EQ(terms[1].begin, 2u);
  EXPECT_EQ(terms[1].end, 4u);
  EXPECT_TRUE(terms[1].last_of_group);
  EXPECT_EQ(terms[2].rank, 0);
  EXPECT_EQ(terms[2].slot, 1u);
  EXPECT_FALSE(terms[2].last_of_group);
  EXPECT_EQ(terms[3].slot, 1u);
  EXPECT_TRUE(terms[3].last_of_group);
  EXPECT_EQ(layout.n_terms(0), 2u);
  EXPECT_EQ(layout.n_terms(2), 0u);
  EXPECT_EQ((std::vector<std::size_t>(layout.own().begin(), layout.own().end())),
            (std::vector<std::size_t>{2, 3, 5}));
  EXPECT_EQ(layout.own_index(5), 2u);
  EXPECT_TRUE(layout.of(2).empty());
}

TEST(Layout, CheckSaysWhatIsWrong) {
  EXPECT_TRUE(check_layout(ranks({{0, 0}, {1, 2}}), 3));
  EXPECT_FALSE(check_layout({}, 1));
  EXPECT_EQ(check_layout(ranks({{0, 0}, {1, 3}}), 3).error().message,
            "virtual rank 1 is on rank 3 of 3");
  EXPECT_FALSE(check_layout(ranks({{1, 0}}), 1));
  EXPECT_FALSE(check_layout(ranks({{0, 0}, {2, 0}}), 1));
  EXPECT_FALSE(check_layout(ranks({{0, 0}, {1, 0}, {0, 0}}), 1));
  EXPECT_FALSE(check_layout(ranks({{0, 0}, {0, 1}}), 2));
  const std::vector<VirtualRank> many(kVirtualRanksMax + 1);  // a message has so many parts
  EXPECT_FALSE(check_layout(many, 2));
  EXPECT_TRUE(check_layout(std::span(many).subspan(1), 2));
  EXPECT_TRUE(check_layout(many, 1));
}

}  // namespace
}  // namespace conclave::collective
