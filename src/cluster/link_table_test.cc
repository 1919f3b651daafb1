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

TEST(LinkTable, ThePlannerGetsTheWorseOfBothWays) {
  LinkTable table;
  EXPECT_FALSE(table.planned(kA, kB));
  table.set(Time{}, kB, kA, {.error = "does not answer"});
  EXPECT_FALSE(table.planned(kA, kB));
  table.set(Time{}, kA, kB, {.rtt_seconds = 450e-6, .rtt_slow_seconds = 910e-6, .bandwidth = 1e9});
  const auto one = table.planned(kA, kB);
  ASSERT_TRUE(one);
  EXPECT_NEAR(one->latency_seconds, 200e-6, 1e-9);  // half, without what the programs take
  EXPECT_NEAR(one->jitter_seconds, 100e-6, 1e-9);
  EXPECT_EQ(one->bandwidth, 1e9);
  table.set(Time{}, kB, kA, {.rtt_seconds = 250e-6, .rtt_slow_seconds = 250e-6, .bandwidth = 4e8});
  const auto both = table.planned(kB, kA);
  ASSERT_TRUE(both);
  EXPECT_NEAR(both->latency_seconds, 200e-6, 1e-9);
  EXPECT_EQ(both->bandwidth, 4e8);
}

TEST(LinkTable, NoLinkIsPlannedAsFasterThanLight) {
  const plan::Link link = planned_link({.rtt_seconds = 10e-6, .rtt_slow_seconds = 9e-6});
  EXPECT_GT(link.latency_seconds, 0.0);
  EXPECT_EQ(link.jitter_seconds, 0.0);
  EXPECT_GT(link.bandwidth, 0.0);  // it was not measured
}

}  // namespace
}  // namespace conclave::cluster
