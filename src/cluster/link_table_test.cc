#include "cluster/link_table.h"

#include <gtest/gtest.h>

namespace conclave::cluster {
namespace {

constexpr NodeId kA{1};
constexpr NodeId kB{2};

TEST(LinkTable, KeepsBothWaysApartAndForgetsAMachine) {
  LinkTable table;
  table.set(Time{}, kA, kB, {.rtt_seconds = 1e-3});
  EXPECT_EQ(table.find(kB, kA), nullptr);
  ASSERT_NE(table.find(kA, kB), nullptr);
  table.set(Time{} + std::chrono::seconds(1), kA, kB, {.rtt_seconds = 2e-3});
  EXPECT_EQ(table.find(kA, kB)->found.rtt_seconds, 2e-3);
  EXPECT_EQ(table.find(kA, kB)->at, Time{} + std::chrono::seconds(1));
  table.set(Time{}, kHeadNode, kB, {});
  table.forget(kA);
  EXPECT_EQ(table.find(kA, kB), nullptr);
  EXPECT_NE(table.find(kHeadNode, kB), nullptr);
}

}  // namespace
}  // namespace conclave::cluster
