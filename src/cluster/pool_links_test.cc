#include "cluster/pool_links.h"

#include <gtest/gtest.h>

#include <vector>

#include "cluster/link_message.h"

namespace conclave::cluster {
namespace {

constexpr NodeId kA{1}, kB{2};
using namespace std::chrono_literals;

class PoolLinksTest : public testing::Test {
 protected:
  struct Asked {
    NodeId from;
    std::uint64_t id;
    std::optional<NodeId> to;
  };

  void join(NodeId node) { links_.on_hello(now_, node); }
  // What is asked from now on in so long.
  std::vector<Asked> tick(Duration after, bool idle) {
    now_ += after;
    asked_.clear();
    links_.on_tick(now_, idle);
    return asked_;
  }
  void answer(const Asked& asked, const LinkMeasurement& found) {
    wire::pb::Measured message;
    message.set_id(asked.id);
    *message.mutable_link() = to_message(found);
    links_.on_answer(now_, asked.from, message);
  }
  void answer_checks(NodeId node) {
    wire::pb::Measured message;
    *message.mutable_checks() = to_message(MachineChecks{.host_name = "here"});
    links_.on_answer(now_, node, message);
  }

  Time now_{};
  std::vector<Asked> asked_;
  PoolLinks links_{[this](NodeId from, std::uint64_t id, std::optional<NodeId> to) {
    asked_.push_back({from, id, to});
  }};
};

TEST_F(PoolLinksTest, ANewMachineIsMeasuredBothWaysWhenThePoolIsIdle) {
  join(kHeadNode);
  join(kA);
  EXPECT_TRUE(tick(PoolLinks::kSettle - 1ms, true).empty());
  EXPECT_TRUE(tick(1ms, false).empty());
  EXPECT_TRUE(tick(PoolLinks::kIdleFor - 1ms, true).empty());  // between two answers
  auto asked = tick(1ms, true);
  ASSERT_EQ(asked.size(), 1u);
  const NodeId first = asked[0].from;
  answer(asked[0], {.rtt_seconds = 1e-4});
  asked = tick(1ms, true);
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_NE(asked[0].from, first);
  answer(asked[0], {.rtt_seconds = 2e-4});
  EXPECT_NE(links_.links().find(kHeadNode, kA), nullptr);
  EXPECT_NE(links_.links().find(kA, kHeadNode), nullptr);
  EXPECT_TRUE(tick(1h, true).empty());  // once
}

TEST_F(PoolLinksTest, NeitherANewMachineNorARoundCutsThePauseAfterAnAnswerShort) {
  join(kHeadNode);
  tick(1s, false);
  join(kA);
  EXPECT_TRUE(tick(PoolLinks::kIdleFor - 1ms, true).empty());
  EXPECT_EQ(tick(1ms, true).size(), 1u);

  links_.begin_round(now_);
  tick(1ms, false);  // an answer begins and ends within the round
  links_.on_gone(kA);
  join(kA);
  links_.on_answer(now_, kHeadNode, {});
  answer_checks(kHeadNode);
  answer_checks(kA);
  EXPECT_TRUE(tick(PoolLinks::kIdleFor - 1ms, true).empty());
  EXPECT_EQ(tick(1ms, true).size(), 1u);
}

TEST_F(PoolLinksTest, WhatFailedIsTriedAgainLater) {
  join(kHeadNode);
  join(kA);
  answer(tick(1s, true).at(0), {.error = "does not answer"});
  const auto other = tick(1ms, true);
  tick(LinkSurvey::kPatience, true);  // nobody answers
  const MeasuredLink* late = links_.links().find(other[0].from, *other[0].to);
  ASSERT_NE(late, nullptr);
  EXPECT_NE(late->found.error, "");
  EXPECT_TRUE(tick(1s, true).empty());
  EXPECT_TRUE(tick(PoolLinks::kRetryAfter, false).empty());
  EXPECT_EQ(tick(PoolLinks::kIdleFor, true).size(), 1u);
}

TEST_F(PoolLinksTest, OnlyWhoWasAskedMayAnswer) {
  join(kHeadNode);
  join(kA);
  join(kB);
  auto asked = tick(1s, true).at(0);
  const NodeId asked_node = asked.from;
  asked.from = asked_node == kB ? kA : kB;
  answer(asked, {.bandwidth = 1e12});
  EXPECT_TRUE(links_.links().all().empty());
  asked.from = asked_node;
  answer(asked, {.bandwidth = 1e9});
  EXPECT_EQ(links_.links().all().size(), 1u);
}

TEST_F(PoolLinksTest, ARoundAsksEverybodyThoughThePoolIsBusy) {
  join(kHeadNode);
  join(kA);
  const std::uint64_t round = links_.begin_round(now_);
  ASSERT_EQ(asked_.size(), 3u);  // two machines' own checks, and the first link
  EXPECT_EQ(links_.begin_round(now_), round);
  const auto pair = asked_[2];
  EXPECT_EQ(links_.progress(round)->total, 4u);
  EXPECT_EQ(links_.progress(round)->left, 4u);
  answer_checks(kHeadNode);
  answer_checks(kA);
  ASSERT_NE(links_.checks(kA), nullptr);
  EXPECT_EQ(links_.checks(kA)->host_name, "here");
  answer(pair, {.rtt_seconds = 1e-4});
  EXPECT_EQ(links_.progress(round)->left, 1u);
  answer(tick(1ms, false).at(0), {.rtt_seconds = 1e-4});
  EXPECT_EQ(links_.progress(round)->left, 0u);
  EXPECT_TRUE(tick(1ms, false).empty());
  const std::uint64_t next = links_.begin_round(now_);
  EXPECT_NE(next, round);
  EXPECT_FALSE(links_.progress(round));
  EXPECT_EQ(links_.checks(kA), nullptr);
}

TEST_F(PoolLinksTest, ARoundEndsWithoutThoseWhoGoOrKeepSilent) {
  join(kHeadNode);
  join(kA);
  join(kB);
  const std::uint64_t round = links_.begin_round(now_);
  EXPECT_EQ(links_.progress(round)->left, 9u);
  answer_checks(kHeadNode);
  links_.on_gone(kB);
  EXPECT_EQ(links_.progress(round)->left, 3u);
  for (int i = 0; i < 3; ++i) tick(LinkSurvey::kPatience, false);
  EXPECT_EQ(links_.progress(round)->left, 0u);
  EXPECT_EQ(links_.checks(kA), nullptr);
  EXPECT_NE(links_.links().find(kA, kHeadNode)->found.error, "");
  EXPECT_FALSE(links_.progress(0));
}

}  // namespace
}  // namespace conclave::cluster
