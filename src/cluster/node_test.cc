#include "cluster/node.h"

#include <gtest/gtest.h>

#include <string>

namespace conclave::cluster {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class NodeTest : public testing::Test {
 protected:
  void take() {
    for (NodeAction& action : node_.take_actions()) {
      if (std::holds_alternative<SpawnWorker>(action)) {
        story_ += "spawn ";
        node_.on_spawned(now_);
        take();
      } else if (std::holds_alternative<KillWorker>(action)) {
        story_ += "kill ";
      } else if (auto* tell = std::get_if<TellWorker>(&action)) {
        ++n_told_;
        told_ = tell->message.assignment();
      } else if (auto* head = std::get_if<TellHead>(&action)) {
        ++n_reports_;
        EXPECT_GT(head->report.sequence(), report_.sequence());
        report_ = head->report;
      }
    }
  }
  void pass(Duration duration, bool head_speaks = true) {
    for (const Time end = now_ + duration; now_ < end;) {
      now_ += milliseconds(50);
      if (head_speaks) node_.on_assignment(now_, next_);
      beat();
      node_.on_tick(now_);
      take();
    }
  }
  void beat() {
    if (node_.supervisor().phase() == WorkerSupervisor::Phase::kWaiting) return;
    wire::pb::FromWorker message;
    message.mutable_heartbeat()->set_progress(++progress_);
    message.mutable_heartbeat()->set_waiting_for(-1);
    node_.on_worker(now_, message);
    take();
  }
  void assign() {
    next_.set_sequence(next_.sequence() + 1);
    node_.on_assignment(now_, next_);
    take();
  }
  void hold() {
    wire::pb::FromWorker message;
    message.mutable_held()->set_layout(next_.layout().id());
    message.mutable_held()->add_virtual_ranks(3);
    message.mutable_held()->set_kv(17);
    node_.on_worker(now_, message);
    take();
  }
  void SetUp() override {
    next_.set_head(5);
    next_.mutable_layout()->set_id(9);
    next_.add_hold(3);
    node_.on_head(now_);
    assign();
    pass(milliseconds(50));
  }

  Node node_{{}};
  Time now_{};
  wire::pb::Assignment next_;
  std::uint64_t progress_ = 0;
  std::string story_;
  int n_told_ = 0;
  int n_reports_ = 0;
  wire::pb::Assignment told_;
  wire::pb::Report report_;
};

TEST_F(NodeTest, AWorkerIsStartedWhenThereIsSomethingToDo) {
  EXPECT_EQ(story_, "spawn ");
  EXPECT_EQ(told_.layout().id(), 9u);
  EXPECT_EQ(report_.worker(), wire::pb::WORKER_LOADING);
  hold();
  EXPECT_EQ(report_.worker(), wire::pb::WORKER_READY);
  EXPECT_EQ(report_.held_size(), 1);
  EXPECT_EQ(report_.kv(), 17u);
}

TEST_F(NodeTest, NoWorkerWithoutALayout) {
  Node node({});
  wire::pb::Assignment assignment;
  assignment.set_head(5);
  assignment.set_sequence(1);
  node.on_assignment(now_, assignment);
  node.on_tick(now_ + seconds(1));
  for (const NodeAction& action : node.take_actions()) {
    EXPECT_FALSE(std::holds_alternative<SpawnWorker>(action));
  }
}

TEST_F(NodeTest, TheWorkerIsToldOfChangesOnly) {
  const int before = n_told_;
  assign();
  EXPECT_EQ(n_told_, before);
  next_.add_hold(4);
  assign();
  EXPECT_EQ(n_told_, before + 1);
  pass(milliseconds(100));
  EXPECT_EQ(report_.assignment(), next_.sequence());
}

TEST_F(NodeTest, OldAssignmentsAreIgnored) {
  next_.add_hold(4);
  assign();
  wire::pb::Assignment old = next_;
  old.set_sequence(1);
  old.clear_hold();
  node_.on_assignment(now_, old);
  take();
  EXPECT_EQ(told_.hold_size(), 2);
}

TEST_F(NodeTest, ReportsComeAtOnceOnChangeAndElseTenTimesASecond) {
  n_reports_ = 0;
  hold();
  EXPECT_EQ(n_reports_, 1);
  pass(seconds(1));
  EXPECT_GE(n_reports_, 10);
  EXPECT_LE(n_reports_, 13);
}

// ---- Fencing ------------------------------------------------------------------------------------

TEST_F(NodeTest, TheWorkerEndsWithTheLease) {
  hold();
  pass(milliseconds(2400), /*head_speaks=*/false);
  EXPECT_EQ(story_, "spawn ");
  pass(milliseconds(200), false);
  EXPECT_EQ(story_, "spawn kill ");
  node_.on_worker_exited(now_, "killed");
  pass(milliseconds(200), false);
  EXPECT_EQ(story_, "spawn kill spawn ") << "another waits, in no epoch";
  EXPECT_EQ(report_.held_size(), 0);
}

// The agent itself was stopped: no time of its own has passed.
TEST_F(NodeTest, APauseOfTheAgentIsNotTheHeadsSilence) {
  hold();
  now_ += seconds(30);
  pass(milliseconds(500), false);
  EXPECT_EQ(story_, "spawn ");
}

TEST_F(NodeTest, TheHeadHasAWorkerKilled) {
  hold();
  next_.set_kill_worker(2);  // not this one
  assign();
  EXPECT_EQ(story_, "spawn ");
  next_.set_kill_worker(1);
  assign();
  EXPECT_EQ(story_, "spawn kill ");
  EXPECT_EQ(report_.worker(), wire::pb::WORKER_STARTING);
  node_.on_worker_exited(now_, "killed by signal 9");
  pass(milliseconds(50));
  EXPECT_EQ(story_, "spawn kill spawn ");
  EXPECT_EQ(report_.worker_life(), 2u);
}

// ---- A worker's life ----------------------------------------------------------------------------

TEST_F(NodeTest, WhatADeadWorkerSaidIsForgotten) {
  hold();
  wire::pb::FromWorker message;
  message.mutable_joined()->set_epoch(4);
  node_.on_worker(now_, message);
  take();
  EXPECT_EQ(report_.joined_epoch(), 4u);
  node_.on_worker_closed(now_);
  node_.on_worker_exited(now_, "killed by signal 11");
  take();
  EXPECT_EQ(report_.worker(), wire::pb::WORKER_STARTING);
  EXPECT_EQ(report_.joined_epoch(), 0u);
  EXPECT_EQ(report_.held_size(), 0);
  pass(milliseconds(50));
  EXPECT_EQ(told_.layout().id(), 9u) << "the next one is told what to do";
}

TEST_F(NodeTest, JoiningMendsABreak) {
  wire::pb::FromWorker broken;
  broken.mutable_broken()->set_epoch(4);
  node_.on_worker(now_, broken);
  take();
  EXPECT_TRUE(report_.has_broken());
  wire::pb::FromWorker joined;
  joined.mutable_joined()->set_epoch(5);
  node_.on_worker(now_, joined);
  take();
  EXPECT_FALSE(report_.has_broken());
}

TEST_F(NodeTest, AWorkerThatCannotGoOnIsNotStartedAgain) {
  wire::pb::FromWorker message;
  message.mutable_failed()->set_error("no such model");
  node_.on_worker(now_, message);
  take();
  node_.on_worker_exited(now_, "exit 1");
  pass(seconds(1));
  EXPECT_EQ(story_, "spawn kill ");
  EXPECT_EQ(report_.worker(), wire::pb::WORKER_FAILED);
  EXPECT_EQ(report_.error(), "no such model");
}

// ---- Another head -------------------------------------------------------------------------------

// Its sequences and epochs count anew.
TEST_F(NodeTest, AnotherHeadIsBelievedFromItsFirstWord) {
  hold();
  next_.mutable_epoch()->set_epoch(4);
  assign();
  wire::pb::FromWorker joined;
  joined.mutable_joined()->set_epoch(4);
  node_.on_worker(now_, joined);
  node_.on_head_gone(now_);
  node_.on_head(now_);
  next_.Clear();
  next_.set_head(6);
  assign();
  EXPECT_EQ(told_.head(), 6u);
  EXPECT_FALSE(told_.has_epoch());
  EXPECT_EQ(report_.joined_epoch(), 0u);
  EXPECT_EQ(report_.assignment(), 1u);
}

}  // namespace
}  // namespace conclave::cluster
