#include "plan/events_experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "plan/test_events.h"

namespace conclave::plan {
namespace {

struct Draw {
  double mean = 0.0;     // distinct experts of a layer
  double busiest = 0.0;  // of the rank with most
};

Draw draw(Cluster cluster, std::size_t copies) {
  cluster.policy.expert_copies = copies;
  for (Machine& machine : cluster.pool.machines) machine.usable_bytes = 2e12;
  const Placement placement = test_placement(cluster, Strategy::kExpert);
  const sim::World world(1);
  ExpertDraws draws(cluster, placement, world, std::vector<double>(placement.ranks.size(), 1.0));
  constexpr std::size_t kTokens = 200;
  Draw sum;
  for (std::size_t token = 0; token < kTokens; ++token) {
    for (std::size_t layer = 1; layer < 24; ++layer) {
      const std::vector<std::size_t>& read = draws.read_by_rank(token, layer);
      sum.mean += static_cast<double>(std::accumulate(read.begin(), read.end(), std::size_t{0}));
      sum.busiest += static_cast<double>(*std::max_element(read.begin(), read.end()));
    }
  }
  return {sum.mean / (kTokens * 23.0), sum.busiest / (kTokens * 23.0)};
}

// The Monte Carlo table of docs/perf-model.md 3.1.
TEST(ExpertDraws, BusiestRankAsInTheTable) {
  EXPECT_NEAR(draw(test_cluster(2, 1), 1).busiest, 5.07, 0.05);
  EXPECT_NEAR(draw(test_cluster(4, 1), 1).busiest, 3.52, 0.05);
  EXPECT_NEAR(draw(test_cluster(6, 1), 1).busiest, 2.90, 0.05);
  EXPECT_EQ(draw(test_cluster(4, 1), 1).mean, 8.0);
  EXPECT_NEAR(draw(test_cluster(4, 8), 1).mean, 59.5, 0.5);
}

TEST(ExpertDraws, CopiesEvenOut) {
  EXPECT_NEAR(draw(test_cluster(2, 1), 2).busiest, 4.0, 1e-9);
  const double two = draw(test_cluster(4, 1), 2).busiest;
  EXPECT_LT(two, 2.7);
  EXPECT_GE(two, 2.0);
}

TEST(ExpertDraws, SkewShrinksTheSet) {
  Cluster skewed = test_cluster(4, 32);
  skewed.workload.zipf = 0.8;
  EXPECT_NEAR(draw(skewed, 1).mean, 140.0, 3.0);
  // The steepest popularity still finds distinct experts.
  Cluster steep = test_cluster(4, 1);
  steep.workload.zipf = 4.0;
  EXPECT_EQ(draw(steep, 1).mean, 8.0);
}

TEST(ExpertDraws, OverlapOfDraftsShrinksTheSet) {
  Cluster cluster = test_cluster(4, 1);
  cluster.workload.speculation.draft_tokens = 3;
  const double fresh = draw(cluster, 1).mean;
  EXPECT_NEAR(fresh, 31.0, 0.3);
  cluster.workload.speculation.expert_overlap = 1.0;
  EXPECT_EQ(draw(cluster, 1).mean, 8.0);
}

TEST(ExpertDraws, AreAFunctionOfTokenAndLayer) {
  const Cluster cluster = test_cluster(4, 2);
  const Placement placement = test_placement(cluster, Strategy::kExpert);
  const sim::World world(1);
  ExpertDraws a(cluster, placement, world, std::vector<double>(4, 1.0));
  ExpertDraws b(cluster, placement, world, std::vector<double>(4, 1.0));
  const std::vector<std::size_t> first = a.read_by_rank(3, 5);
  b.read_by_rank(9, 9);
  EXPECT_EQ(b.read_by_rank(3, 5), first);
}

}  // namespace
}  // namespace conclave::plan
