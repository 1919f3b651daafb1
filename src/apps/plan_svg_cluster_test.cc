#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "apps/plan_svg.h"
#include "apps/svg_check.h"

namespace conclave::apps {
namespace {

using plan::Cluster;
using plan::Link;
using plan::Machine;
using plan::Plan;
using plan::Rank;
using plan::Topology;

struct Drawn {
  Cluster cluster;
  Plan plan;
};

Link link_named(std::string name, double latency_seconds) {
  Link link;
  link.name = std::move(name);
  link.latency_seconds = latency_seconds;
  return link;
}

Drawn equal_machines(std::size_t n, Topology topology) {
  Drawn drawn;
  drawn.cluster.model.architecture.name = "Kimi K2";
  drawn.cluster.model.quant.name = "shipped";
  drawn.cluster.pool.topology = topology;
  drawn.cluster.pool.link = link_named("tb5-rdma", 6e-6);
  drawn.plan.cluster = "lab";
  drawn.plan.prediction.tokens_per_second = 49.5;
  for (std::size_t i = 0; i < n; ++i) {
    Machine machine;
    machine.name = fmt::format("m{}", i + 1);
    machine.title = "Mac Studio";
    machine.memory_bytes = 512e9;
    machine.usable_bytes = 490e9;
    drawn.cluster.pool.machines.push_back(machine);
    Rank rank;
    rank.machine = i;
    rank.weight_bytes = 150e9;
    rank.kv_bytes = 2e9;
    rank.backup_bytes = 50e9;
    rank.free_bytes = 288e9;
    rank.share = 1.0 / static_cast<double>(n);
    drawn.plan.placement.ranks.push_back(rank);
  }
  return drawn;
}

TEST(SvgCluster, EverySizeAndTopologyIsWellFormed) {
  for (const Topology topology : {Topology::kSwitch, Topology::kMesh, Topology::kRing}) {
    for (std::size_t n = 0; n <= 20; ++n) {
      const Drawn drawn = equal_machines(n, topology);
      const std::string svg = svg_cluster(drawn.cluster, drawn.plan);
      EXPECT_EQ(xml_error(svg), "") << n;
      EXPECT_FALSE(has_bad_number(svg)) << n;
      EXPECT_EQ(occurrences(svg, "class=\"box\""), n > kDrawnMachinesMax ? 1 : n);
    }
  }
}

TEST(SvgCluster, CablesFollowTheTopology) {
  const auto cables = [](std::size_t n, Topology topology) {
    const Drawn drawn = equal_machines(n, topology);
    return occurrences(svg_cluster(drawn.cluster, drawn.plan), "class=\"cable\"");
  };
  EXPECT_EQ(cables(1, Topology::kMesh), 0U);
  EXPECT_EQ(cables(2, Topology::kSwitch), 1U);
  EXPECT_EQ(cables(4, Topology::kMesh), 6U);
  EXPECT_EQ(cables(8, Topology::kMesh), 28U);
  EXPECT_EQ(cables(9, Topology::kMesh), 9U);  // around their link
  EXPECT_EQ(cables(4, Topology::kSwitch), 4U);
  EXPECT_EQ(cables(6, Topology::kRing), 6U);
}

TEST(SvgCluster, ShowsSharesMemoryLinkAndSpeed) {
  const Drawn drawn = equal_machines(4, Topology::kMesh);
  const std::string svg = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(occurrences(svg, ">25 %<"), 4U);
  EXPECT_EQ(occurrences(svg, ">202 of 512 GB<"), 4U);
  EXPECT_EQ(occurrences(svg, ">tb5-rdma<"), 1U);
  EXPECT_EQ(occurrences(svg, "6 \u00b5s"), 1U);
  EXPECT_GE(occurrences(svg, "slice \u00b7 49.5 tok/s"), 1U);
  for (const std::string_view part : {"weights", "kv", "backup", "free", "system"}) {
    EXPECT_EQ(occurrences(svg, fmt::format("<rect class=\"{}\"", part)), 5U) << part;  // and legend
  }
}

TEST(SvgCluster, PairsHaveTheirOwnLabel) {
  Drawn drawn = equal_machines(3, Topology::kSwitch);
  drawn.cluster.pool.pairs.push_back({2, 0, link_named("10gbe", 35e-6)});
  std::string svg = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(occurrences(svg, "10gbe, 35 \u00b5s"), 1U);
  EXPECT_EQ(occurrences(svg, "class=\"cable\""), 4U);
  drawn.cluster.pool.link.reset();
  svg = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(xml_error(svg), "");
  EXPECT_EQ(occurrences(svg, "class=\"cable\""), 1U);
}

TEST(SvgCluster, LongNamesEndBeforeTheShareAndInsideTheirBoxes) {
  Drawn drawn = equal_machines(1, Topology::kMesh);
  drawn.cluster.pool.machines[0].name = "the-machine-in-the-meeting-room";
  std::string svg = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(occurrences(svg, ">100 %<"), 1U);
  EXPECT_EQ(occurrences(svg, ">the-machine-in-the-meeting-room<"), 0U);
  EXPECT_EQ(occurrences(svg, "\u2026</text>"), 1U);
  drawn = equal_machines(4, Topology::kMesh);
  drawn.cluster.pool.machines[0].name = "m3-ultra-512-1";
  drawn.cluster.pool.link->title = "Thunderbolt 5, RDMA over Thunderbolt";
  svg = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(occurrences(svg, ">m3-ultra-512-1<"), 1U);
  EXPECT_EQ(occurrences(svg, ">Thunderbolt 5, RDMA over Thunderbolt<"), 0U);
  EXPECT_EQ(occurrences(svg, ">Thunderbolt 5"), 1U);
}

TEST(SvgCluster, EscapesNames) {
  Drawn drawn = equal_machines(2, Topology::kSwitch);
  drawn.plan.cluster = "<svg onload=\"x\">";
  drawn.cluster.pool.machines[0].name = "a<b&\"c\"\x01";
  drawn.cluster.pool.machines[1].title = "\xFF</g>";
  drawn.cluster.pool.link->name = "]]><x>";
  drawn.cluster.model.architecture.name = "<m>";
  const std::string svg = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(xml_error(svg), "");
  EXPECT_EQ(occurrences(svg, "<svg "), 1U);
  EXPECT_EQ(occurrences(svg, "<x>"), 0U);
  EXPECT_EQ(svg.find('\x01'), std::string::npos);
}

TEST(SvgCluster, AMachineWithoutASliceIsDrawnAsNotUsed) {
  Drawn drawn = equal_machines(4, Topology::kSwitch);
  drawn.plan.placement.ranks.pop_back();
  const std::string svg = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(occurrences(svg, "class=\"box unused\""), 1U);
  EXPECT_EQ(occurrences(svg, ">not used<"), 1U);
}

TEST(SvgCluster, ManyMachinesAreGroupedByKind) {
  Drawn drawn = equal_machines(16, Topology::kSwitch);
  for (std::size_t i = 10; i < 16; ++i) drawn.cluster.pool.machines[i].title = "DGX Spark";
  const std::string svg = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(occurrences(svg, ">10 machines<"), 1U);
  EXPECT_EQ(occurrences(svg, ">6 machines<"), 1U);
  // As many kinds as machines: a few boxes all the same.
  for (std::size_t i = 0; i < 16; ++i) {
    drawn.cluster.pool.machines[i].title = fmt::format("kind {}", i);
  }
  const std::string kinds = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(xml_error(kinds), "");
  EXPECT_EQ(occurrences(kinds, "class=\"box\""), kDrawnMachinesMax);
  EXPECT_EQ(occurrences(kinds, ">of several kinds<"), 1U);
}

TEST(SvgCluster, NumbersThatAreNoneStayOut) {
  Drawn drawn = equal_machines(3, Topology::kMesh);
  drawn.plan.prediction.tokens_per_second = std::nan("");
  drawn.plan.placement.ranks[0].weight_bytes = std::nan("");
  drawn.plan.placement.ranks[0].share = std::nan("");
  drawn.cluster.pool.machines[1].memory_bytes = 0.0;
  drawn.cluster.pool.link->latency_seconds = std::nan("");
  const std::string svg = svg_cluster(drawn.cluster, drawn.plan);
  EXPECT_EQ(xml_error(svg), "");
  EXPECT_FALSE(has_bad_number(svg));
}

}  // namespace
}  // namespace conclave::apps
