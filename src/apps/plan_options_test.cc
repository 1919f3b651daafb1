#include "apps/plan_options.h"

#include <gtest/gtest.h>

namespace conclave::apps {
namespace {

using Values = std::vector<std::size_t>;

TEST(MachineList, NamesWithAndWithoutCounts) {
  const auto machines = parse_machine_list("m3-ultra-512*4,m4-max-128");
  ASSERT_TRUE(machines) << machines.error().message;
  ASSERT_EQ(machines->size(), 2u);
  EXPECT_EQ((*machines)[0].name, "m3-ultra-512");
  EXPECT_EQ((*machines)[0].count, 4u);
  EXPECT_EQ((*machines)[1].name, "m4-max-128");
  EXPECT_EQ((*machines)[1].count, 1u);
}

TEST(MachineList, BlanksMayStandBetween) {
  const auto machines = parse_machine_list(" a * 2, b ");
  ASSERT_TRUE(machines) << machines.error().message;
  ASSERT_EQ(machines->size(), 2u);
  EXPECT_EQ((*machines)[0].name, "a");
  EXPECT_EQ((*machines)[0].count, 2u);
  EXPECT_EQ((*machines)[1].name, "b");
}

TEST(MachineList, RefusesWhatIsNoList) {
  for (const char* text : {"", " ", ",", "a,", "*4", "a*", "a*0", "a*-1", "a*2x", "a*1.5",
                           "a*100001", "a*99999999999999999999", "a*60000,b*60000"}) {
    EXPECT_FALSE(parse_machine_list(text)) << text;
  }
}

TEST(PlanTopology, NamesRoundTrip) {
  for (const char* name : {"switch", "mesh", "ring"}) {
    const auto topology = parse_topology(name);
    ASSERT_TRUE(topology) << name;
    EXPECT_EQ(topology_name(*topology), name);
  }
  EXPECT_FALSE(parse_topology("star"));
}

TEST(PlanSpeculation, TokensAndAcceptance) {
  const auto speculation = parse_speculation("3:2.35");
  ASSERT_TRUE(speculation);
  EXPECT_EQ(speculation->draft_tokens, 3u);
  EXPECT_DOUBLE_EQ(speculation->accepted, 2.35);
  for (const char* text : {"", "3", "3:", ":2", "0:1", "3:4.5", "3:0.5", "3:2x", "3:nan", "65:2"}) {
    EXPECT_FALSE(parse_speculation(text)) << text;
  }
}

TEST(PlanSweep, ShortRangesStepLongOnesDouble) {
  const auto nodes = parse_sweep("nodes=1..8");
  ASSERT_TRUE(nodes) << nodes.error().message;
  EXPECT_EQ(nodes->key, SweepKey::kNodes);
  EXPECT_EQ(nodes->values, (Values{1, 2, 3, 4, 5, 6, 7, 8}));
  const auto batch = parse_sweep("batch=1..64");
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->values, (Values{1, 2, 4, 8, 16, 32, 64}));
  const auto uneven = parse_sweep("batch=1..50");
  ASSERT_TRUE(uneven);
  EXPECT_EQ(uneven->values, (Values{1, 2, 4, 8, 16, 32, 50}));
}

TEST(PlanSweep, ListsAreSortedWithoutRepeats) {
  const auto sweep = parse_sweep("context=4096,512,4096");
  ASSERT_TRUE(sweep);
  EXPECT_EQ(sweep->key, SweepKey::kContext);
  EXPECT_EQ(sweep->values, (Values{512, 4096}));
}

TEST(PlanSweep, RefusesWhatIsNoSweep) {
  for (const char* text : {"", "nodes", "nodes=", "nodes=0..3", "nodes=4..1", "nodes=1..",
                           "links=1", "nodes=1..200000", "batch=1..99999999999", "batch=a"}) {
    EXPECT_FALSE(parse_sweep(text)) << text;
  }
}

// Before anything is allocated for it.
TEST(PlanOptions, WhatIsTooLargeNamesTheLimit) {
  const auto expect_limit = [](const auto& parsed, const char* limit) {
    ASSERT_FALSE(parsed);
    EXPECT_NE(parsed.error().message.find(limit), std::string::npos) << parsed.error().message;
  };
  const std::string huge = "99999999999999999999999";
  for (const std::string& count : {std::string("100001"), std::string("1000000000"), huge}) {
    expect_limit(parse_machine_list("a*" + count), "at most 100000 machines");
    expect_limit(parse_sweep("nodes=1.." + count), "nodes of at most 100000");
    expect_limit(parse_change("nodes=" + count), "at most 100000");
  }
  expect_limit(parse_machine_list("a*99999,b*" + huge), "at most 100000 machines");
  expect_limit(parse_sweep("batch=1..999999999999"), "batch of at most 1000000");
  expect_limit(parse_sweep("batch=" + huge + ".." + huge), "batch of at most 1000000");
  expect_limit(parse_sweep("context=1," + huge), "context of at most 16777216");
  expect_limit(parse_change("batch=1000001"), "at most 1000000");
  expect_limit(parse_change("context=16777217"), "at most 16777216");
  EXPECT_TRUE(parse_change("nodes=100000"));
  EXPECT_TRUE(parse_sweep("context=16777216"));
}

TEST(PlanChange, NamesCountsAndAmounts) {
  const auto link = parse_change("link=tb5-rdma");
  ASSERT_TRUE(link);
  EXPECT_EQ(link->key, ChangeKey::kLink);
  EXPECT_EQ(link->value, "tb5-rdma");
  const auto nodes = parse_change("nodes=6");
  ASSERT_TRUE(nodes);
  EXPECT_EQ(nodes->count, 6u);
  const auto bandwidth = parse_change("bandwidth=+20%");
  ASSERT_TRUE(bandwidth) << bandwidth.error().message;
  EXPECT_DOUBLE_EQ(bandwidth->amount.applied_to(100.0), 120.0);
  const auto latency = parse_change("latency=12us");
  ASSERT_TRUE(latency);
  EXPECT_DOUBLE_EQ(latency->amount.applied_to(1.0), 12e-6);
  const auto halved = parse_change("latency=-50%");
  ASSERT_TRUE(halved);
  EXPECT_DOUBLE_EQ(halved->amount.applied_to(3.0), 1.5);
}

TEST(PlanChange, RefusesWhatCannotBe) {
  for (const char* text :
       {"", "link", "link=", "colour=red", "nodes=0", "nodes=-1", "bandwidth=20", "bandwidth=-100%",
        "bandwidth=+-20%", "bandwidth=+9GB/s", "latency=-1us", "latency=inf", "latency=5 us"}) {
    EXPECT_FALSE(parse_change(text)) << text;
  }
}

TEST(PlanOptions, ContradictionsAreNamed) {
  PlanOptions options;
  ASSERT_TRUE(contradiction(options));  // no cluster
  options.machines = "m3-ultra-512";
  EXPECT_FALSE(contradiction(options));
  options.sweep = "nodes=1..2";
  options.svg = "x.svg";
  EXPECT_FALSE(contradiction(options));
  options.what_if = {"nodes=2"};
  EXPECT_EQ(contradiction(options)->message, "--sweep and --what-if together: give one of them");
  options.sweep.clear();
  EXPECT_TRUE(contradiction(options));  // nothing to draw
  options.svg.clear();
  EXPECT_FALSE(contradiction(options));
  options.cluster = "x.toml";
  EXPECT_TRUE(contradiction(options));
}

TEST(PlanOptions, ListAndTableNeedNoCluster) {
  PlanOptions options;
  options.list = true;
  EXPECT_FALSE(contradiction(options));
  options.machines = "m3-ultra-512";
  EXPECT_TRUE(contradiction(options));
}

}  // namespace
}  // namespace conclave::apps
