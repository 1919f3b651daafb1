#include "plan/events_network.h"

#include <gtest/gtest.h>

#include "plan/exchange.h"
#include "plan/test_events.h"

namespace conclave::plan {
namespace {

double arrival(const Cluster& cluster, std::size_t from, std::size_t to, double bytes) {
  const Placement placement = test_placement(cluster, Strategy::kSlice);
  sim::World world(1);
  RankNetwork network(world, cluster, placement, false);
  double seconds = -1.0;
  network.send(from, to, bytes, [&] { seconds = conclave::seconds(world.now() - Time{}); });
  EXPECT_EQ(world.run_until_idle(1000), sim::Stop::kIdle);
  return seconds;
}

TEST(RankNetwork, AMessageTakesLatencyAndItsBytes) {
  EXPECT_NEAR(arrival(test_cluster(3, 1), 0, 2, 3e6), 30e-6 + 1e-3, 1e-9);
}

TEST(RankNetwork, ARingForwardsTheShorterWay) {
  Cluster cluster = test_cluster(6, 1);
  cluster.pool.topology = Topology::kRing;
  EXPECT_NEAR(arrival(cluster, 0, 1, 0.0), 30e-6, 1e-9);
  EXPECT_NEAR(arrival(cluster, 0, 5, 0.0), 30e-6, 1e-9);
  EXPECT_NEAR(arrival(cluster, 1, 5, 0.0), 60e-6, 1e-9);
  EXPECT_NEAR(arrival(cluster, 0, 3, 0.0), 90e-6, 1e-9);
  EXPECT_NEAR(arrival(cluster, 5, 2, 0.0), 90e-6, 1e-9);
}

TEST(RankNetwork, NamedPairsHaveTheirOwnLink) {
  Cluster cluster = test_cluster(3, 1);
  Link fast = *cluster.pool.link;
  fast.latency_seconds = 5e-6;
  cluster.pool.pairs.push_back({.a = 2, .b = 1, .link = fast});
  EXPECT_NEAR(arrival(cluster, 1, 2, 0.0), 5e-6, 1e-9);
  EXPECT_NEAR(arrival(cluster, 2, 1, 0.0), 5e-6, 1e-9);
  EXPECT_NEAR(arrival(cluster, 0, 1, 0.0), 30e-6, 1e-9);
}

TEST(RankNetwork, PairsWithoutALinkGoOverOthers) {
  Cluster cluster = test_cluster(3, 1);
  const Link link = *cluster.pool.link;
  cluster.pool.link.reset();
  cluster.pool.pairs = {{.a = 0, .b = 1, .link = link}, {.a = 1, .b = 2, .link = link}};
  EXPECT_NEAR(arrival(cluster, 0, 2, 0.0), 60e-6, 1e-9);
}

TEST(RankNetwork, OverheadIsTheSoftwares) {
  const Cluster cluster = test_cluster(4, 1);
  sim::World world(1);
  const RankNetwork network(world, cluster, test_placement(cluster, Strategy::kSlice), true);
  EXPECT_EQ(network.overhead(0, 3), std::chrono::microseconds(26));
  EXPECT_EQ(network.overhead(0, 1), std::chrono::microseconds(22));
}

}  // namespace
}  // namespace conclave::plan
