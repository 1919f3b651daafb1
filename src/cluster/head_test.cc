// The head's decisions, events in, actions out: placing, memory, draining, requests.
#include <gtest/gtest.h>

#include "base/rng.h"
#include "cluster/test_head.h"

namespace conclave::cluster {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using wire::pb::Report;

// ---- Placing and forming ------------------------------------------------------------------------

TEST_F(HeadTest, PlacesWhenEnoughAreThereAndNoMoreCome) {
  make({.life = 41, .nodes_min = 2});
  hello(0);
  pass(seconds(1));
  EXPECT_FALSE(assigned_[0].has_layout());
  EXPECT_EQ(head_->status(now_).text, "1 of 2 machines are here");
  hello(1);
  EXPECT_FALSE(assigned_[1].has_layout());
  pass(milliseconds(350));
  EXPECT_TRUE(assigned_[0].has_layout());
  ASSERT_TRUE(assigned_[1].has_layout());
  EXPECT_EQ(assigned_[1].hold_size(), 1);
  EXPECT_TRUE(assigned_[0].embedding());
  EXPECT_FALSE(assigned_[1].embedding());
}

TEST_F(HeadTest, AnEpochBeginsWhenAllIsHeldAndRequestsWhenAllHaveJoined) {
  for (std::uint64_t node = 0; node < 3; ++node) hello(node);
  pass(milliseconds(350));
  ASSERT_TRUE(submit(1));
  ready(2);
  ready(1);
  EXPECT_FALSE(assigned_[0].has_epoch());
  ready(0);
  ASSERT_TRUE(assigned_[2].has_epoch());
  EXPECT_EQ(assigned_[2].epoch().rank(), 2u);
  EXPECT_TRUE(epoch().fresh());
  EXPECT_TRUE(told_.empty());
  joined();
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_EQ(told_[0].admit().attempt(), 1u);
  EXPECT_EQ(head_->status(now_).phase, HeadPhase::kRunning);
  EXPECT_EQ(head_->status(now_).losses_survived, 1u);
}

TEST_F(HeadTest, ABuildThatComputesOtherBitsIsRefused) {
  hello(0);
  wire::pb::Hello hello;
  hello.set_numerics(kNumericsId + 1);
  hello.set_life(1);
  head_->on_hello(now_, NodeId{1}, hello);
  take();
  EXPECT_NE(refused_, "");
}

// It calls again and again.
TEST_F(HeadTest, ARefusalIsNotedOnce) {
  hello(0);
  wire::pb::Hello hello;
  hello.set_numerics(kNumericsId + 1);
  for (const std::uint64_t life : {1u, 1u, 1u, 2u}) {
    hello.set_life(life);
    refused_.clear();
    head_->on_hello(now_, NodeId{1}, hello);
    take();
    EXPECT_NE(refused_, "");
  }
  const auto n = std::ranges::count_if(head_->history(), [](const HistoryEntry& entry) {
    return entry.text.find("needs upgrade") != std::string::npos;
  });
  EXPECT_EQ(n, 2);
}

// Nodes that outlive their head still have its layouts in memory.
TEST_F(HeadTest, AnotherHeadsLayoutHasAnotherId) {
  run(2);
  const std::uint64_t first = assigned_[0].layout().id();
  make({.life = 57});
  hello(0);
  hello(1);
  pass(milliseconds(350));
  EXPECT_NE(assigned_[0].layout().id(), first);
}

TEST_F(HeadTest, LateReportsAreIgnored) {
  run(2);
  Report old = reports_[1];
  old.set_sequence(1);
  old.set_worker(wire::pb::WORKER_STARTING);
  head_->on_report(now_, NodeId{1}, old);
  take();
  EXPECT_TRUE(assigned_[0].has_epoch());
}

// ---- Too little memory --------------------------------------------------------------------------

TEST_F(HeadTest, RequestsWaitForMachinesButNotForEver) {
  make({.life = 41, .cover_losses = 0}, kGroupBytes);
  run(3);
  ASSERT_TRUE(submit(1));
  pass(seconds(3), {2});
  EXPECT_EQ(head_->status(now_).phase, HeadPhase::kShort);
  EXPECT_TRUE(failures_.empty());
  pass(seconds(20), {2});
  EXPECT_NE(failures_[1].find("cannot hold the model"), std::string::npos);
  EXPECT_FALSE(submit(2));
  pass(seconds(1));
  ready(2);
  EXPECT_EQ(members(), nodes({0, 1, 2}));
  EXPECT_TRUE(submit(3));
}

TEST_F(HeadTest, RequestsOfAPoolThatNeverComesTogetherFailToo) {
  make({.life = 41}, kGroupBytes);
  hello(0);
  ASSERT_TRUE(submit(1));
  pass(seconds(21));
  EXPECT_NE(failures_[1].find("cannot hold the model"), std::string::npos);
}

// Its own pause is not held against machines that are on their way.
TEST_F(HeadTest, RequestsDoNotFailBecauseTheHeadWasStopped) {
  make({.life = 41, .cover_losses = 0}, kGroupBytes);
  run(3);
  ASSERT_TRUE(submit(1));
  pass(seconds(3), {2});
  now_ += seconds(60);
  pass(seconds(1));
  EXPECT_TRUE(failures_.empty());
  ready(2);
  EXPECT_EQ(members(), nodes({0, 1, 2}));
}

// A division by hand need not ask for the room that there is.
TEST_F(HeadTest, ADivisionThatDoesNotFitWaitsForMachines) {
  placer_.ignores_room = true;
  make({.life = 41}, kGroupBytes);
  hello(0);
  ASSERT_TRUE(submit(1));
  pass(seconds(1));
  EXPECT_EQ(head_->status(now_).phase, HeadPhase::kShort);
  pass(seconds(18));
  EXPECT_TRUE(failures_.empty());
  pass(seconds(3));
  EXPECT_NE(failures_[1].find("cannot hold the model"), std::string::npos);
  for (std::uint64_t node = 1; node < 3; ++node) hello(node);
  pass(seconds(1));
  for (std::uint64_t node = 3; node-- > 0;) ready(node);
  EXPECT_EQ(members(), nodes({0, 1, 2}));
}

// Copies were once placed by what was in memory at that moment: each that came moved others.
TEST_F(HeadTest, WhatIsBeingLoadedStaysWhereItIs) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SplitMix random(seed);
    make({.life = 41}, kGroupBytes + random.next() % (2 * kGroupBytes));
    reports_.clear();
    run(4);
    hello(4);
    static_cast<void>(head_->drain(now_, NodeId{1 + random.next() % 3}));
    take();
    // One node after the other makes one step towards what it is asked to hold.
    int n_steps = 0;
    for (int n_still = 0; n_still < 100; ++n_steps) {
      ASSERT_LT(n_steps, 400) << seed;
      const std::uint64_t node = random.next() % 5;
      n_still = step_towards_hold(node) ? 0 : n_still + 1;
    }
  }
}

// ---- Draining -----------------------------------------------------------------------------------

TEST_F(HeadTest, ADrainedNodeIsLetGoWhenTheOthersHoldItsPart) {
  run(3);
  ASSERT_TRUE(head_->drain(now_, NodeId{2}));
  take();
  pass(milliseconds(200));
  EXPECT_EQ(members(), nodes({0, 1}));
  EXPECT_TRUE(assigned_[2].drained());
  EXPECT_EQ(assigned_[2].hold_size(), 0);
  EXPECT_FALSE(head_->drain(now_, kHeadNode));
  EXPECT_FALSE(head_->drain(now_, NodeId{9}));
}

TEST_F(HeadTest, ADrainOutlivesTheConnection) {
  run(3);
  ASSERT_TRUE(head_->drain(now_, NodeId{2}));
  take();
  head_->on_gone(now_, NodeId{2}, "reset");
  hello(2);
  EXPECT_TRUE(assigned_[2].drained());
  hello(2, /*life=*/2);  // its owner started it again
  EXPECT_FALSE(assigned_[2].drained());
}

TEST_F(HeadTest, ANodeThatTheOthersNeedIsNotDrained) {
  make({.life = 41}, 3 * kGroupBytes / 2);
  run(3);
  ASSERT_TRUE(head_->drain(now_, NodeId{2}));
  const Result<void> second = head_->drain(now_, NodeId{1});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kExhausted);
  pass(seconds(3), {1});  // now it is needed again
  EXPECT_FALSE(assigned_[2].drained());
}

// ---- Requests -----------------------------------------------------------------------------------

TEST_F(HeadTest, EachTokenIsSaidOnce) {
  run(1);
  ASSERT_TRUE(submit(1));
  token(1, 1, 0);
  token(1, 1, 0);
  token(1, 1, 1, engine::FinishReason::kStop);
  token(1, 1, 2);
  EXPECT_EQ(tokens_.size(), 2u);
  EXPECT_EQ(head_->status(now_).open_requests, 0u);
  EXPECT_TRUE(killed_.empty());
}

TEST_F(HeadTest, AWorkerThatLeavesOutATokenIsNotTrusted) {
  run(1);
  ASSERT_TRUE(submit(1));
  token(1, 1, 1);
  EXPECT_TRUE(tokens_.empty());
  EXPECT_EQ(killed_, (std::map<std::uint64_t, std::uint32_t>{{0, 1}}));
}

TEST_F(HeadTest, ARequestOnWhichWorkersEndFailsAlone) {
  run(1);
  ASSERT_TRUE(submit(1));
  for (int i = 0; i < 3; ++i) {
    worker_ends(0);
    ready(0);
    joined();
    if (i == 1) {
      ASSERT_TRUE(submit(2));
    }
  }
  worker_ends(0);
  ready(0);
  joined();
  EXPECT_EQ(failures_.size(), 1u);
  EXPECT_TRUE(failures_.contains(1));
}

TEST_F(HeadTest, ACancelledRequestIsForgotten) {
  run(1);
  ASSERT_TRUE(submit(1));
  head_->cancel(now_, RequestId{1});
  take();
  EXPECT_EQ(told_.back().cancel().request(), 1u);
  token(1, 1, 0);
  EXPECT_TRUE(tokens_.empty());
  EXPECT_TRUE(failures_.empty());
}

TEST_F(HeadTest, AHeadWhoseWorkerFailsForGoodSaysSo) {
  run(1);
  ASSERT_TRUE(submit(1));
  reports_[0].set_worker(wire::pb::WORKER_FAILED);
  reports_[0].set_error("the weights are corrupt");
  report(0);
  EXPECT_EQ(failures_[1], "the weights are corrupt");
  EXPECT_EQ(head_->failure(), "the weights are corrupt");
  EXPECT_FALSE(submit(2));
}

}  // namespace
}  // namespace conclave::cluster
