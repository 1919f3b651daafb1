#include <gtest/gtest.h>

#include "plan/events_run.h"
#include "plan/phases.h"
#include "plan/test_events.h"

namespace conclave::plan {
namespace {

// With a small vocabulary, so that stages of as many layers take equally long.
Cluster even_cluster(std::size_t n, std::size_t batch) {
  Cluster cluster = test_cluster(n, batch);
  cluster.model.architecture.vocab_size = 8192;
  return cluster;
}

Placement spread(const Cluster& cluster) {
  // Layers alike on all ranks, also for one stream, where `place` would fill the first machine.
  Placement placement = test_placement(cluster, Strategy::kPipeline);
  const std::size_t n = placement.ranks.size();
  const std::size_t layers = cluster.model.architecture.n_layers;
  for (std::size_t r = 0; r < n; ++r) {
    placement.ranks[r].first_layer = r * layers / n;
    placement.ranks[r].n_layers = (r + 1) * layers / n - r * layers / n;
    placement.ranks[r].vocab_units = 0;
  }
  placement.ranks[n - 1].vocab_units = vocab_units(cluster.model.architecture);
  return placement;
}

double agreement_of(const Cluster& cluster) {
  const Placement placement = spread(cluster);
  return predict_events(cluster, placement, without_chance()).tokens_per_second /
         predict(cluster, placement).tokens_per_second;
}

TEST(Pipeline, AgreesWithTheClosedFormForAnySpreadOfLayers) {
  for (const std::size_t n : {2u, 4u}) {
    for (const std::size_t batch : {1u, 4u, 8u}) {
      EXPECT_NEAR(agreement_of(test_cluster(n, batch)), 1.0, 0.05) << n << " " << batch;
    }
  }
}

TEST(Pipeline, OneStreamCostsAHopPerStage) {
  const Cluster cluster = test_cluster(4, 1);
  const EventPrediction events = predict_events(cluster, spread(cluster), without_chance(5));
  EXPECT_EQ(events.n_messages, 5u * 4u);
}

TEST(Pipeline, StreamsFillTheStages) {
  const Cluster one = even_cluster(4, 1);
  const Cluster four = even_cluster(4, 4);
  const double alone = predict_events(one, spread(one), without_chance()).tokens_per_second;
  const double together = predict_events(four, spread(four), without_chance()).tokens_per_second;
  EXPECT_GT(together, 3.0 * alone);
  EXPECT_LT(together, 4.0 * alone);
}

TEST(Pipeline, ASlowStageCostsOneStreamLittleAndManyMuch) {
  const auto slowdown = [](std::size_t batch) {
    const Cluster cluster = even_cluster(4, batch);
    EventOptions options = without_chance();
    const double fast = predict_events(cluster, spread(cluster), options).tokens_per_second;
    options.slow_rank = 1;
    return fast / predict_events(cluster, spread(cluster), options).tokens_per_second;
  };
  EXPECT_NEAR(slowdown(1), 1.25, 0.05);
  EXPECT_GT(slowdown(8), 1.6);
}

TEST(Pipeline, ALostStageIsTakenOverOrEndsTheAnswer) {
  for (const std::size_t batch : {1u, 3u, 8u}) {
    const Cluster cluster = test_cluster(4, batch);
    Placement placement = spread(cluster);
    EventOptions options = without_chance(20);
    for (const std::size_t lost : {1u, 2u, 3u}) {
      options.lost_rank = lost;
      placement.losses_survived = 0;
      const EventPrediction ended = predict_events(cluster, placement, options);
      EXPECT_FALSE(ended.finished);
      EXPECT_LE(ended.token_seconds.size(), 10u);
      placement.losses_survived = 1;
      const EventPrediction survived = predict_events(cluster, placement, options);
      EXPECT_TRUE(survived.finished);
      EXPECT_EQ(survived.token_seconds.size(), 20u);
      EXPECT_GT(survived.token_seconds[10], options.detect_seconds);
    }
  }
}

TEST(Pipeline, TheHeadMayBeOnAnyRank) {
  const Cluster cluster = test_cluster(3, 2);
  Placement placement = spread(cluster);
  for (Rank& rank : placement.ranks) rank.vocab_units = 0;
  placement.ranks[1].vocab_units = 5120;
  placement.losses_survived = 1;
  EventOptions options = without_chance(6);
  EXPECT_TRUE(predict_events(cluster, placement, options).finished);
  options.lost_rank = 1;
  EXPECT_TRUE(predict_events(cluster, placement, options).finished);
}

}  // namespace
}  // namespace conclave::plan
