#include <gtest/gtest.h>

#include <algorithm>

#include "plan/events_run.h"
#include "plan/plan.h"
#include "plan/test_events.h"

namespace conclave::plan {
namespace {

// docs/perf-model.md 5.3: the two agree within 5 % where there is no chance.
TEST(Events, AgreeWithTheClosedFormWithoutChance) {
  constexpr Topology kTopologies[] = {Topology::kSwitch, Topology::kMesh};
  for (std::size_t s = 0; s < kStrategies; ++s) {
    for (const std::size_t n : {1u, 2u, 4u, 6u}) {
      for (const std::size_t batch : {1u, 8u}) {
        for (const Topology topology : kTopologies) {
          Cluster cluster = test_cluster(n, batch);
          cluster.pool.topology = topology;
          const auto strategy = static_cast<Strategy>(s);
          // Unless streams divide evenly, the closed form takes all groups for as large as the
          // largest.
          const bool uneven = strategy == Strategy::kPipeline && batch > 1 && batch % n != 0;
          EXPECT_NEAR(agreement(cluster, strategy), 1.0, uneven ? 0.10 : 0.05)
              << name_of(strategy) << " on " << n << ", batch " << batch;
        }
      }
    }
  }
}

TEST(Events, AgreeForRingCollectives) {
  for (const std::size_t n : {2u, 4u, 6u}) {
    Cluster cluster = test_cluster(n, 1);
    cluster.software.splits_head = false;
    for (ExchangeCost& cost : cluster.software.exchange) cost.collective = Collective::kRing;
    EXPECT_NEAR(agreement(cluster, Strategy::kSlice), 1.0, 0.02) << n;
  }
}

// The closed form adds the longest way to the busiest cable; on large rings the two overlap.
TEST(Events, AreAtMostALittleFasterOnARingOfCables) {
  for (const std::size_t n : {3u, 4u, 6u, 8u}) {
    for (const std::size_t batch : {1u, 8u}) {
      Cluster cluster = test_cluster(n, batch);
      cluster.pool.topology = Topology::kRing;
      const double ratio = agreement(cluster, Strategy::kSlice);
      EXPECT_GT(ratio, 0.95) << n << ", batch " << batch;
      EXPECT_LT(ratio, n <= 4 ? 1.05 : 1.15) << n << ", batch " << batch;
    }
  }
}

TEST(Events, AgreeWithUnequalMachinesAndSkewedExperts) {
  Cluster cluster = test_cluster(3, 4);
  cluster.pool.machines[1].peak_bandwidth /= 2.0;
  EXPECT_NEAR(agreement(cluster, Strategy::kSlice), 1.0, 0.05);
  EXPECT_NEAR(agreement(cluster, Strategy::kSliceRa), 1.0, 0.05);
  Cluster skewed = test_cluster(4, 8);
  skewed.workload.zipf = 0.8;
  EXPECT_NEAR(agreement(skewed, Strategy::kExpert), 1.0, 0.05);
}

TEST(Events, AgreeUnderSpeculation) {
  Cluster cluster = test_cluster(4, 1);
  cluster.workload.speculation = {
      .draft_tokens = 3, .accepted = 2.35, .expert_overlap = 0.3, .draft_seconds = 1e-3};
  EXPECT_NEAR(agreement(cluster, Strategy::kSlice), 1.0, 0.05);
  EXPECT_NEAR(agreement(cluster, Strategy::kPipeline), 1.0, 0.05);
}

TEST(Events, OneSeedOneAnswer) {
  const Cluster cluster = test_cluster(4, 1);
  for (const Strategy strategy : {Strategy::kExpert, Strategy::kPipeline}) {
    const Placement placement = test_placement(cluster, strategy);
    EventOptions options;
    options.compute_noise = 0.03;
    const EventPrediction first = predict_events(cluster, placement, options);
    EXPECT_EQ(predict_events(cluster, placement, options).token_seconds, first.token_seconds);
    options.seed = 2;
    EXPECT_NE(predict_events(cluster, placement, options).token_seconds, first.token_seconds);
  }
}

TEST(Events, PercentilesAndMeanFitTheTokens) {
  const Cluster cluster = test_cluster(4, 1);
  const EventPrediction events =
      predict_events(cluster, test_placement(cluster, Strategy::kSlice), EventOptions{});
  ASSERT_EQ(events.token_seconds.size(), 32u);
  EXPECT_LE(events.p50_seconds, events.p95_seconds);
  EXPECT_EQ(std::count_if(events.token_seconds.begin(), events.token_seconds.end(),
                          [&](double s) { return s > events.p95_seconds; }),
            1);
  EXPECT_NEAR(events.tokens_per_second * events.p50_seconds, 1.0, 0.1);
  EXPECT_TRUE(events.finished);
  EXPECT_GT(events.wait_share, 0.0);
  EXPECT_LT(events.wait_share, 1.0);
}

TEST(Events, NoiseHasItsDeviationAndNeverTurnsTimeBack) {
  const sim::World world(1);
  const ComputeNoise noise(world, 0.1);
  double sum = 0.0;
  double squares = 0.0;
  for (std::size_t i = 0; i < 10'000; ++i) {
    const double off = noise.factor(0, i) - 1.0;
    sum += off;
    squares += off * off;
  }
  EXPECT_NEAR(sum / 1e4, 0.0, 0.005);
  EXPECT_NEAR(squares / 1e4, 0.01, 0.001);
  const ComputeNoise wild(world, 10.0);
  for (std::size_t i = 0; i < 1000; ++i) EXPECT_GT(wild.factor(1, i), 0.0);
  EXPECT_EQ(ComputeNoise(world, 0.0).factor(0, 0), 1.0);
}

}  // namespace
}  // namespace conclave::plan
