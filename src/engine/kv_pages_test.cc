#include "engine/kv_pages.h"

#include <gtest/gtest.h>

#include <set>

namespace conclave::engine {
namespace {

TEST(KvPages, CountsPagesForPositions) {
  EXPECT_EQ(pages_for(0), 0u);
  EXPECT_EQ(pages_for(1), 1u);
  EXPECT_EQ(pages_for(64), 1u);
  EXPECT_EQ(pages_for(65), 2u);
}

TEST(KvPages, HandsOutEveryPageOnce) {
  PagePool pool(5);
  const auto first = pool.allocate(2);
  const auto second = pool.allocate(3);
  ASSERT_TRUE(first && second);
  std::set<backend::PageIndex> pages(first->begin(), first->end());
  pages.insert(second->begin(), second->end());
  EXPECT_EQ(pages, (std::set<backend::PageIndex>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.used(), 5u);
  EXPECT_FALSE(pool.allocate(1));
  EXPECT_TRUE(pool.allocate(0));
}

TEST(KvPages, RefusalTakesNothingAndFreedPagesReturn) {
  PagePool pool(4);
  const auto pages = pool.allocate(3);
  ASSERT_TRUE(pages);
  EXPECT_FALSE(pool.allocate(2));
  EXPECT_EQ(pool.used(), 3u);
  pool.free(*pages);
  EXPECT_EQ(pool.used(), 0u);
  EXPECT_TRUE(pool.allocate(4));
}

TEST(KvPagesDeathTest, PageFreedTwiceIsABug) {
  PagePool pool(2);
  const auto pages = pool.allocate(1);
  ASSERT_TRUE(pages);
  pool.free(*pages);
  EXPECT_DEATH(pool.free(*pages), "CHECK failed");
}

}  // namespace
}  // namespace conclave::engine
