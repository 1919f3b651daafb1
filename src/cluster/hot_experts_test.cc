#include "cluster/hot_experts.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace conclave::cluster {
namespace {

using model::LayerExpert;

// A dense layer and two of eight experts.
model::ModelConfig config() {
  model::ModelConfig config;
  config.n_layers = 3;
  config.n_dense_layers = 1;
  config.n_experts = 8;
  config.experts_per_token = 2;
  return config;
}

ExpertCounts counts() {
  return {.n_layers = 3, .n_experts = 8, .chosen = {0, 0, 0, 0, 0, 0, 0, 0,     //
                                                    9, 1, 1, 1, 7, 1, 1, 1,     //
                                                    0, 0, 0, 0, 0, 0, 0, 20}};  //
}

std::vector<model::Slice> halves() {
  std::vector<model::Slice> groups(2);
  groups[0].experts = {0, 4};
  groups[1].experts = {4, 8};
  return groups;
}

LayerExpert at(std::uint16_t layer, std::uint16_t expert) {
  return {LayerId{layer}, ExpertId{expert}};
}

wire::pb::Trace trace(std::uint64_t each) {
  wire::pb::Trace trace;
  trace.set_n_experts(8);
  for (int i = 0; i < 24; ++i) trace.add_expert_counts(each);
  return trace;
}

TEST(HotExperts, CountsSurviveTheirFile) {
  const auto again = parse_expert_counts(to_text(counts()));
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, counts());
}

TEST(HotExperts, OtherFilesAreRefused) {
  const std::string good = to_text(counts());
  EXPECT_FALSE(parse_expert_counts(""));
  EXPECT_FALSE(parse_expert_counts("x" + good));
  EXPECT_FALSE(parse_expert_counts(good.substr(0, good.size() - 3))) << "a number is missing";
  EXPECT_FALSE(parse_expert_counts(good + "1\n"));
  EXPECT_FALSE(parse_expert_counts("conclave-expert-counts-1\n99999999 8\n"));
  EXPECT_FALSE(parse_expert_counts("conclave-expert-counts-1\n1 2\n1 -1\n"));
}

TEST(HotExperts, WorkersCountFromTheirOwnStart) {
  ExpertTally tally(config(), counts());
  tally.update(trace(5));
  tally.update(trace(6));
  EXPECT_EQ(tally.total().of(1, 0), 15u) << "9 of before and 6";
  tally.update(trace(2));  // another worker
  EXPECT_EQ(tally.total().of(1, 0), 17u);
  wire::pb::Trace other = trace(3);
  other.set_n_experts(4);
  tally.update(other);
  EXPECT_EQ(tally.total().of(1, 0), 17u) << "of another model";
}

TEST(HotExperts, TheMostChosenGetACopyWhereLeastIsToDo) {
  std::vector<model::Slice> groups = halves();
  add_replicas(config(), counts(), 1, {.group_bytes = {10, 10}, .expert_bytes = 1}, groups);
  EXPECT_EQ(groups[0].replicas, (std::vector{at(2, 7)}));
  EXPECT_EQ(groups[1].replicas, (std::vector{at(1, 0)}));
}

TEST(HotExperts, NobodyCopiesWhatNobodyChooses) {
  std::vector<model::Slice> groups = halves();
  add_replicas(config(), counts(), 8, {.group_bytes = {100, 100}, .expert_bytes = 1}, groups);
  EXPECT_EQ(groups[0].replicas.size(), 5u) << "four of layer 1, one of layer 2";
  EXPECT_EQ(groups[1].replicas.size(), 4u);
  for (const model::Slice& slice : groups) EXPECT_TRUE(std::ranges::is_sorted(slice.replicas));
}

TEST(HotExperts, RoomGoesToTheHottest) {
  std::vector<model::Slice> groups = halves();
  add_replicas(config(), counts(), 8, {.group_bytes = {0.5, 2.5}, .expert_bytes = 1}, groups);
  EXPECT_TRUE(groups[0].replicas.empty());
  EXPECT_EQ(groups[1].replicas, (std::vector{at(1, 0), at(1, 1)}));
}

TEST(HotExperts, BackupsOfCopiesNeedRoomOnTheOthers) {
  for (const double head : {0.4, 0.6}) {
    std::vector<model::Slice> groups = halves();
    groups[1].experts = {4, 6};
    groups.emplace_back().experts = {6, 8};
    const ReplicaRoom room{.group_bytes = {head, 5, 5}, .expert_bytes = 1, .backup_share = 0.5};
    add_replicas(config(), counts(), 1, room, groups);
    EXPECT_EQ(groups[1].replicas.size() + groups[2].replicas.size(), head < 0.5 ? 0u : 1u);
  }
}

TEST(HotExperts, FasterMachinesAreBusyLater) {
  std::vector<model::Slice> groups(3);
  groups[0].experts = {0, 1};
  groups[1].experts = {1, 2};
  groups[2].experts = {2, 8};
  ExpertCounts even = counts();
  even.chosen = std::vector<std::uint64_t>(24, 2);
  even.chosen[8] = 100;
  add_replicas(config(), even, 1, {.group_bytes = {9, 9, 9}, .expert_bytes = 1}, groups);
  EXPECT_TRUE(std::ranges::count(groups[2].replicas, at(1, 0)) == 1)
      << "(12 + 50) / 6 is less than (2 + 50) / 1";
}

TEST(HotExperts, AGroupWithoutExpertsGetsNone) {
  std::vector<model::Slice> groups = halves();
  groups.emplace_back().experts = {8, 8};
  add_replicas(config(), counts(), 1, {.group_bytes = {0, 10, 10}, .expert_bytes = 1}, groups);
  EXPECT_TRUE(groups[2].replicas.empty());
}

}  // namespace
}  // namespace conclave::cluster
