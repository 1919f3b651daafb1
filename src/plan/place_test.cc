#include <gtest/gtest.h>

#include <numeric>

#include "plan/phases.h"
#include "plan/plan.h"
#include "plan/test_events.h"

namespace conclave::plan {
namespace {

TEST(Place, SharesFollowBandwidth) {
  Cluster cluster = test_cluster(3, 1);
  cluster.pool.machines[1].peak_bandwidth /= 2.0;
  const Placement placement = test_placement(cluster, Strategy::kSlice);
  const auto& ranks = placement.ranks;
  EXPECT_NEAR(static_cast<double>(ranks[0].expert_units), 64 / 2.5, 1.0);
  EXPECT_NEAR(static_cast<double>(ranks[1].expert_units), 64 / 5.0, 1.0);
  EXPECT_GT(ranks[0].n_heads, ranks[1].n_heads);
  EXPECT_LT(predict(cluster, placement).split.imbalance,
            0.05 * predict(cluster, placement).step_seconds);
}

TEST(Place, MemoryBoundsAShareAndOthersTakeTheRest) {
  Cluster cluster = test_cluster(3, 1);
  cluster.pool.machines[2].usable_bytes = 30e9;
  const Placement placement = test_placement(cluster, Strategy::kSlice);
  EXPECT_LE(placement.ranks[2].weight_bytes + placement.ranks[2].kv_bytes, 30e9);
  EXPECT_LT(placement.ranks[2].expert_units, placement.ranks[0].expert_units);
  EXPECT_GT(placement.ranks[2].expert_units, 0u);
}

TEST(Place, AMachineTooSmallForAnythingHoldsNothing) {
  Cluster cluster = test_cluster(3, 1);
  cluster.pool.machines[1].usable_bytes = 1e6;
  const Placement placement = test_placement(cluster, Strategy::kSlice);
  EXPECT_EQ(placement.ranks[1].expert_units, 0u);
  EXPECT_EQ(placement.ranks[1].weight_bytes, 0.0);
  cluster.policy.use_all_machines = false;
  const Result<Placement> best = best_placement(cluster);
  ASSERT_TRUE(best);
  for (const Rank& rank : best->ranks) EXPECT_NE(rank.machine, 1u);
}

TEST(Place, BackupsCoverOneLossWhereMemoryAllows) {
  Cluster cluster = test_cluster(4, 1);
  EXPECT_EQ(test_placement(cluster, Strategy::kSlice).losses_survived, 1u);
  cluster.policy.cover_losses = 0;
  EXPECT_EQ(test_placement(cluster, Strategy::kSlice).losses_survived, 0u);
  cluster.policy.cover_losses = 1;
  for (Machine& machine : cluster.pool.machines) {
    machine.usable_bytes = 1.1 * stored_bytes(cluster.model) / 4.0;
  }
  cluster.workload.reserve_tokens = cluster.workload.context;
  EXPECT_EQ(test_placement(cluster, Strategy::kSlice).losses_survived, 0u);
}

TEST(Place, SoftwareWithoutUnequalSharesDealsAlike) {
  Cluster cluster = test_cluster(4, 1);
  cluster.pool.machines[1].peak_bandwidth /= 4.0;
  cluster.software.equal_shares = true;
  for (const Rank& rank : test_placement(cluster, Strategy::kSlice).ranks) {
    EXPECT_EQ(rank.n_heads, 16u);
    EXPECT_EQ(rank.expert_units, 16u);
  }
}

TEST(Place, WholeExpertsWithCopies) {
  Cluster cluster = test_cluster(4, 32);
  cluster.policy.expert_copies = 2;
  const Placement placement = test_placement(cluster, Strategy::kExpert);
  std::size_t held = 0;
  for (const Rank& rank : placement.ranks) {
    EXPECT_LE(rank.n_experts, 384u);
    held += rank.n_experts;
  }
  EXPECT_EQ(held, 2u * 384u);
}

TEST(Place, TheFastestStageIsFilledFirstForOneStream) {
  Cluster cluster = test_cluster(3, 1);
  cluster.policy.use_all_machines = false;
  cluster.pool.machines[2].peak_bandwidth *= 3.0;
  const Placement placement = test_placement(cluster, Strategy::kPipeline);
  EXPECT_GT(placement.ranks[2].n_layers, 20u);
}

TEST(Place, SaysHowMuchIsMissing) {
  Cluster cluster = test_cluster(2, 1);
  for (Machine& machine : cluster.pool.machines) machine.usable_bytes = 20e9;
  const Result<Placement> placement = best_placement(cluster);
  ASSERT_FALSE(placement);
  EXPECT_EQ(placement.error().code, ErrorCode::kExhausted);
  EXPECT_NE(placement.error().message.find("GB missing"), std::string::npos);
  const std::size_t enough = machines_needed(cluster);
  EXPECT_GT(enough, 2u);
  EXPECT_LT(enough, 100u);
}

TEST(Place, StrategyNames) {
  for (std::size_t i = 0; i < kStrategies; ++i) {
    const Strategy strategy = static_cast<Strategy>(i);
    EXPECT_EQ(*parse_strategy(name_of(strategy)), strategy);
  }
  EXPECT_FALSE(parse_strategy("ring"));
}

}  // namespace
}  // namespace conclave::plan
