#include <gtest/gtest.h>

#include "plan/events_run.h"
#include "plan/test_events.h"

namespace conclave::plan {
namespace {

double speed(const Cluster& cluster, const EventOptions& options,
             Strategy strategy = Strategy::kSlice) {
  return predict_events(cluster, test_placement(cluster, strategy), options).tokens_per_second;
}

TEST(Lockstep, MessagesAreTwoRoundsALayerForSliceAndOneForReplicatedAttention) {
  const Cluster cluster = test_cluster(4, 1);
  constexpr std::uint64_t kTokens = 5;
  const auto messages = [&](Strategy strategy) {
    return predict_events(cluster, test_placement(cluster, strategy), without_chance(kTokens))
        .n_messages;
  };
  // 12 messages a round, and three to and from the head.
  EXPECT_EQ(messages(Strategy::kSlice), kTokens * (24 * 2 * 12 + 6));
  EXPECT_EQ(messages(Strategy::kSliceRa), kTokens * (24 * 12 + 6));
}

TEST(Lockstep, JitterAndNoiseOnlySlow) {
  const Cluster cluster = test_cluster(4, 1);
  const double calm = speed(cluster, without_chance());
  EventOptions jitter;
  const double shaken = speed(cluster, jitter);
  EXPECT_LT(shaken, calm);
  jitter.compute_noise = 0.05;
  EXPECT_LT(speed(cluster, jitter), shaken);
}

// Each round ends with the slowest of three messages to each of four ranks.
TEST(Lockstep, JitterCostsMoreThanItsMeanInEveryRound) {
  const Cluster cluster = test_cluster(4, 1);
  const double calm = 1.0 / speed(cluster, without_chance());
  const double shaken = 1.0 / speed(cluster, EventOptions{});
  const double per_round = (shaken - calm) / (2.0 * 24.0 + 2.0);
  EXPECT_GT(per_round, 1.5 * 10e-6);
  EXPECT_LT(per_round, 3.5 * 10e-6);
}

// The slow rank finds the others' partials there when it is done: it waits for no wire, and the
// others wait for it.
TEST(Lockstep, ASlowRankHoldsUpAllAndHidesTheWire) {
  const Cluster cluster = test_cluster(4, 1);
  EventOptions options = without_chance();
  options.slow_rank = 2;
  options.slow_factor = 2.0;
  const Prediction closed = predict(cluster, test_placement(cluster, Strategy::kSlice));
  const double overhead = static_cast<double>(closed.rounds) * (20e-6 + 3 * 2e-6);
  const double expected = 2.0 * (closed.step_seconds - closed.split.exchange) + overhead;
  EXPECT_NEAR(1.0 / speed(cluster, options), expected, 0.03 * expected);
}

TEST(Lockstep, ALostRankIsReplacedByBackupsOnce) {
  const Cluster cluster = test_cluster(4, 1);
  Placement placement = test_placement(cluster, Strategy::kSlice);
  placement.losses_survived = 1;
  EventOptions options = without_chance(20);
  options.lost_rank = 2;
  options.detect_seconds = 0.5;
  const EventPrediction events = predict_events(cluster, placement, options);
  ASSERT_TRUE(events.finished);
  ASSERT_EQ(events.token_seconds.size(), 20u);
  const double before = events.token_seconds[5];
  const double after = events.token_seconds[15];
  // The interrupted token: half of it, the wait, and all of it again.
  EXPECT_NEAR(events.token_seconds[10], 0.5 * before + 0.5 + after, 0.1 * before);
  EXPECT_GT(after, 1.05 * before);
  EXPECT_LT(after, 4.0 / 3.0 * before);
}

TEST(Lockstep, WithoutBackupsALossEndsTheAnswer) {
  const Cluster cluster = test_cluster(4, 1);
  Placement placement = test_placement(cluster, Strategy::kSlice);
  placement.losses_survived = 0;
  EventOptions options = without_chance(20);
  options.lost_rank = 2;
  const EventPrediction events = predict_events(cluster, placement, options);
  EXPECT_FALSE(events.finished);
  EXPECT_EQ(events.token_seconds.size(), 10u);
  placement.losses_survived = 1;
  options.lost_rank = 0;  // the head is not replaced
  EXPECT_FALSE(predict_events(cluster, placement, options).finished);
}

TEST(Lockstep, ALossDuringTheFirstTokenWithoutBackupsHasNoSpeed) {
  const Cluster cluster = test_cluster(2, 1);
  Placement placement = test_placement(cluster, Strategy::kSlice);
  placement.losses_survived = 0;
  EventOptions options = without_chance(1);
  options.lost_rank = 1;
  const EventPrediction events = predict_events(cluster, placement, options);
  EXPECT_FALSE(events.finished);
  EXPECT_EQ(events.tokens_per_second, 0.0);
}

TEST(Lockstep, OneOfTwoRanksGoesOnAlone) {
  const Cluster cluster = test_cluster(2, 1);
  Placement placement = test_placement(cluster, Strategy::kSlice);
  placement.losses_survived = 1;
  EventOptions options;
  options.lost_rank = 1;
  EXPECT_TRUE(predict_events(cluster, placement, options).finished);
}

TEST(Lockstep, ARingWithALostRankClosesUp) {
  Cluster cluster = test_cluster(5, 1);
  cluster.pool.topology = Topology::kRing;
  for (ExchangeCost& cost : cluster.software.exchange) cost.collective = Collective::kRing;
  Placement placement = test_placement(cluster, Strategy::kSlice);
  placement.losses_survived = 1;
  EventOptions options;
  options.lost_rank = 3;
  EXPECT_TRUE(predict_events(cluster, placement, options).finished);
}

}  // namespace
}  // namespace conclave::plan
