// The head's decisions: events in, actions out.
#include "cluster/head.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "cluster/facts.h"

namespace conclave::cluster {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using wire::pb::Report;

constexpr std::uint64_t kGroupBytes = 120;

// Group i is node i's. A group of several machines is cut into a virtual rank for each of the
// others; all fit while there is room for one group each.
class EvenPlacer final : public Placer {
 public:
  Result<Layout> place(std::span<const NodeFacts> nodes) override {
    double room = 0;
    for (const NodeFacts& node : nodes) room += node.machine.usable_bytes;
    if (room < n_groups * kGroupBytes) return exhausted("too little memory");
    Layout layout;
    const std::size_t n = nodes.size();
    const std::uint64_t bytes = n_groups * kGroupBytes / n;
    std::size_t column = 0;
    for (std::size_t group = 0; group < n; ++group) {
      layout.homes.push_back(nodes[group].node);
      const std::size_t pieces = group == 0 || n == 1 ? 1 : n - 1;
      for (std::size_t i = 0; i < pieces; ++i) {
        VirtualRank& rank = layout.virtual_ranks.emplace_back();
        rank.group = static_cast<std::uint16_t>(group);
        rank.slice.expert_columns = {column, column + 32};
        column += 32;
        rank.weight_bytes = bytes / pieces;
      }
    }
    layout.step_seconds = 0.01;
    return layout;
  }
  std::size_t n_groups = 3;
};

class HeadTest : public testing::Test {
 protected:
  void make(HeadOptions options, std::uint64_t usable_bytes = 10 * kGroupBytes) {
    usable_bytes_ = usable_bytes;
    head_.emplace(options, placer_);
  }
  void SetUp() override { make({.life = 41}); }

  // --- what comes in ---
  void hello(std::uint64_t node, std::uint64_t life = 1) {
    wire::pb::Hello hello;
    hello.set_numerics(kNumericsId);
    hello.set_life(life);
    hello.mutable_machine()->set_name("node-" + std::to_string(node));
    hello.mutable_machine()->set_memory_bytes(usable_bytes_);
    hello.mutable_machine()->set_usable_bytes(usable_bytes_);
    head_->on_hello(now_, NodeId{node}, hello);
    Report& report = reports_[node];
    report.Clear();
    report.set_worker_life(1);
    report.set_waiting_for(-1);
    take();
  }
  void report(std::uint64_t node) {
    reports_[node].set_sequence(++sequences_[node]);
    reports_[node].set_assignment(assigned_[node].sequence());
    head_->on_report(now_, NodeId{node}, reports_[node]);
    take();
  }
  // It holds what it was told to.
  void ready(std::uint64_t node) {
    Report& report = reports_[node];
    report.set_worker(wire::pb::WORKER_READY);
    report.set_layout(assigned_[node].layout().id());
    *report.mutable_held() = assigned_[node].hold();
    report.set_kv(100 + node);
    report.mutable_data()->set_host("node-" + std::to_string(node));
    report.mutable_data()->set_fingerprint(std::string(32, 'k'));
    this->report(node);
  }
  void worker_ends(std::uint64_t node) {
    Report& report = reports_[node];
    report.set_worker(wire::pb::WORKER_STARTING);
    report.clear_held();
    report.clear_kv();
    this->report(node);
    report.set_worker_life(report.worker_life() + 1);
    report.set_worker(wire::pb::WORKER_LOADING);
    report.clear_layout();
    this->report(node);
  }
  void says_broken(std::uint64_t node, collective::Broken::Kind kind, std::uint32_t peer) {
    wire::pb::Broken* broken = reports_[node].mutable_broken();
    broken->set_epoch(epoch().epoch() != 0 ? epoch().epoch() : last_epoch_);
    broken->set_kind(static_cast<std::uint32_t>(kind));
    broken->set_peer(peer);
    broken->set_reason("test");
    report(node);
  }
  // The nodes of `silent` say nothing meanwhile.
  void pass(Duration duration, const std::vector<std::uint64_t>& silent = {}) {
    for (const Time end = now_ + duration; now_ < end;) {
      now_ += milliseconds(50);
      for (auto& [node, message] : reports_) {
        if (std::ranges::find(silent, node) == silent.end()) report(node);
      }
      head_->on_tick(now_);
      take();
    }
  }
  void joined() {
    reports_[0].set_joined_epoch(epoch().epoch());
    report(0);
  }
  void token(std::uint64_t request, std::uint32_t attempt, std::uint64_t index,
             engine::FinishReason finish = engine::FinishReason::kNone) {
    wire::pb::FromWorker message;
    message.mutable_token()->set_request(request);
    message.mutable_token()->set_attempt(attempt);
    message.mutable_token()->set_index(index);
    message.mutable_token()->set_has_token(true);
    message.mutable_token()->set_id(7);
    message.mutable_token()->set_finish(static_cast<std::uint32_t>(finish));
    head_->on_worker(now_, message);
    take();
  }
  Result<void> submit(std::uint64_t id) {
    engine::Request request;
    request.id = RequestId{id};
    request.prompt = {TokenId{1}};
    const Result<void> done = head_->submit(now_, std::move(request));
    take();
    return done;
  }
  // So many machines that hold all they are to hold, in a running epoch.
  void run(std::uint64_t n) {
    for (std::uint64_t node = 0; node < n; ++node) hello(node);
    pass(milliseconds(350));
    for (std::uint64_t node = 0; node < n; ++node) ready(node);
    ASSERT_EQ(epoch().epoch(), 1u);
    joined();
  }

  // --- what comes out ---
  void take() {
    for (HeadAction& action : head_->take_actions()) {
      if (auto* send = std::get_if<SendAssignment>(&action)) {
        if (send->assignment.has_epoch()) last_epoch_ = send->assignment.epoch().epoch();
        if (send->assignment.kill_worker() != 0) {
          killed_[send->node.value] = send->assignment.kill_worker();
        }
        assigned_[send->node.value] = std::move(send->assignment);
      } else if (auto* tell = std::get_if<SendToWorker>(&action)) {
        told_.push_back(tell->message);
      } else if (auto* emitted = std::get_if<EmitToken>(&action)) {
        tokens_.push_back(emitted->event);
      } else if (auto* failed = std::get_if<EmitFailure>(&action)) {
        failures_[failed->request.value] = failed->error.message;
      } else if (auto* refused = std::get_if<RefuseNode>(&action)) {
        refused_ = refused->reason;
      }
    }
  }
  const wire::pb::Epoch& epoch() { return assigned_[0].epoch(); }
  std::vector<std::uint64_t> members() { return {epoch().nodes().begin(), epoch().nodes().end()}; }
  std::vector<std::uint64_t> nodes(std::initializer_list<std::uint64_t> list) { return list; }

  EvenPlacer placer_;
  std::optional<Head> head_;
  std::uint64_t usable_bytes_ = 0;
  Time now_{};
  std::map<std::uint64_t, Report> reports_;
  std::map<std::uint64_t, std::uint64_t> sequences_;
  std::map<std::uint64_t, wire::pb::Assignment> assigned_;
  std::map<std::uint64_t, std::uint32_t> killed_;
  std::uint32_t last_epoch_ = 0;
  std::vector<wire::pb::ToWorker> told_;
  std::vector<engine::TokenEvent> tokens_;
  std::map<std::uint64_t, std::string> failures_;
  std::string refused_;
};

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
  ready(0);
  ready(1);
  EXPECT_FALSE(assigned_[0].has_epoch());
  ready(2);
  ASSERT_TRUE(assigned_[2].has_epoch());
  EXPECT_EQ(assigned_[2].epoch().rank(), 2u);
  EXPECT_TRUE(epoch().fresh());
  EXPECT_TRUE(told_.empty());
  joined();
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_EQ(told_[0].admit().attempt(), 1u);
  EXPECT_EQ(head_->status(now_).phase, HeadPhase::kRunning);
  EXPECT_EQ(head_->status(now_).losses_survived, 2u);
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

// ---- Losses -------------------------------------------------------------------------------------

TEST_F(HeadTest, OthersTakeOverWhatASilentNodeComputed) {
  run(3);
  ASSERT_TRUE(submit(1));
  told_.clear();
  pass(milliseconds(1900), {2});
  EXPECT_EQ(epoch().epoch(), 1u);
  pass(milliseconds(200), {2});
  EXPECT_EQ(epoch().epoch(), 2u);
  EXPECT_EQ(members(), nodes({0, 1}));
  EXPECT_FALSE(epoch().fresh());
  // Group 2's virtual ranks are spread over both.
  EXPECT_NE(epoch().computed_by(3), epoch().computed_by(4));
  joined();
  EXPECT_TRUE(told_.empty()) << "the engine goes on with the step that broke";
}

TEST_F(HeadTest, AWorkerThatComesBackSoonTakesItsPlaceAgain) {
  run(3);
  ASSERT_TRUE(submit(1));
  worker_ends(1);
  EXPECT_FALSE(assigned_[0].has_epoch());
  pass(milliseconds(500));
  EXPECT_FALSE(assigned_[0].has_epoch()) << "it is waited for";
  ready(1);
  EXPECT_EQ(members(), nodes({0, 1, 2}));
  EXPECT_FALSE(epoch().fresh()) << "its KV cache is in its agent's memory";
}

TEST_F(HeadTest, AWorkerThatDoesNotComeBackIsNotWaitedForLong) {
  run(3);
  worker_ends(1);
  pass(milliseconds(1300));
  EXPECT_EQ(members(), nodes({0, 2}));
}

TEST_F(HeadTest, ALostKvCacheMakesTheEpochFresh) {
  run(3);
  ASSERT_TRUE(submit(1));
  token(1, 1, 0);
  told_.clear();
  worker_ends(1);
  reports_[1].set_kv(999);
  ready(1);
  reports_[1].set_kv(999);
  report(1);
  pass(milliseconds(1300));
  joined();
  EXPECT_EQ(members(), nodes({0, 2})) << "the others' caches agree: they go on without it";
  EXPECT_FALSE(epoch().fresh());
}

TEST_F(HeadTest, TheHeadsWorkerComesBackWithoutItsEngine) {
  run(3);
  ASSERT_TRUE(submit(1));
  token(1, 1, 0);
  told_.clear();
  worker_ends(0);
  ready(0);
  ASSERT_TRUE(assigned_[0].has_epoch());
  EXPECT_TRUE(epoch().fresh());
  joined();
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_EQ(told_[0].admit().attempt(), 2u);
  EXPECT_EQ(told_[0].admit().log_size(), 1);
}

TEST_F(HeadTest, WhoMissedAnEpochIsNotTakenIntoAnUnbrokenLine) {
  run(3);
  ASSERT_TRUE(submit(1));
  pass(milliseconds(2100), {2});
  joined();
  pass(milliseconds(200));  // it is back, with its old cache
  ASSERT_EQ(members(), nodes({0, 1}));
  says_broken(1, collective::Broken::Kind::kPeerLost, 0);
  pass(milliseconds(200));
  EXPECT_EQ(members(), nodes({0, 1}));
  EXPECT_FALSE(epoch().fresh());
  joined();
  token(1, 1, 0, engine::FinishReason::kLength);  // idle
  pass(milliseconds(200));
  EXPECT_EQ(members(), nodes({0, 1, 2}));
  EXPECT_TRUE(epoch().fresh());
}

// Its connection may be replaced before anybody says that the old one is gone.
TEST_F(HeadTest, ANodeThatWasStartedAgainEndsTheEpoch) {
  run(3);
  ASSERT_TRUE(submit(1));
  hello(2, /*life=*/2);
  EXPECT_EQ(members(), nodes({0, 1}));
}

TEST_F(HeadTest, AnotherLayoutIsAnotherBackend) {
  placer_.n_groups = 3;
  make({.life = 41, .cover_losses = 0}, 2 * kGroupBytes);
  run(3);
  ASSERT_TRUE(submit(1));
  token(1, 1, 0);
  told_.clear();
  pass(milliseconds(2100), {2});
  ASSERT_EQ(assigned_[0].layout().virtual_ranks_size(), 2) << "divided over two";
  ready(0);
  ready(1);
  ASSERT_TRUE(assigned_[0].has_epoch());
  EXPECT_TRUE(epoch().fresh());
  joined();
  ASSERT_EQ(told_.size(), 1u) << "its engine starts anew too";
  EXPECT_EQ(told_[0].admit().log_size(), 1);
}

// ---- Hangs and bad links ------------------------------------------------------------------------

void wait_for(Report& report, int peer) {
  report.set_busy(true);
  report.set_waiting_for(peer);
}

TEST_F(HeadTest, TheEndOfAChainOfWaitsIsKilled) {
  run(3);
  wait_for(reports_[0], 1);
  wait_for(reports_[1], 2);
  wait_for(reports_[2], -1);
  pass(milliseconds(1900));
  EXPECT_TRUE(killed_.empty());
  pass(milliseconds(200));
  EXPECT_EQ(killed_, (std::map<std::uint64_t, std::uint32_t>{{2, 1}}));
  EXPECT_EQ(members(), nodes({0, 1})) << "others take over at once";
}

TEST_F(HeadTest, ProgressIsNoHang) {
  run(3);
  wait_for(reports_[2], -1);
  for (int i = 0; i < 10; ++i) {
    pass(seconds(1));
    reports_[2].set_progress(reports_[2].progress() + 1);
  }
  EXPECT_TRUE(killed_.empty());
}

// A step that was lost on its way: rank 1 does not know that it is waited for.
TEST_F(HeadTest, AnEpochInWhichAllWaitForOneAnotherEnds) {
  run(3);
  wait_for(reports_[0], 1);
  pass(milliseconds(3900));
  EXPECT_EQ(last_epoch_, 1u);
  pass(milliseconds(300));
  EXPECT_EQ(last_epoch_, 2u);
  EXPECT_TRUE(killed_.empty());
}

TEST_F(HeadTest, ARankThatDoesNotAnswerToAnEpochHangs) {
  for (std::uint64_t node = 0; node < 3; ++node) hello(node);
  pass(milliseconds(350));
  for (std::uint64_t node = 0; node < 3; ++node) ready(node);
  pass(milliseconds(1600));
  says_broken(0, collective::Broken::Kind::kLate, 2);
  says_broken(1, collective::Broken::Kind::kLate, 2);
  pass(milliseconds(200));
  EXPECT_EQ(killed_, (std::map<std::uint64_t, std::uint32_t>{{2, 1}}));
  EXPECT_EQ(members(), nodes({0, 1}));
}

TEST_F(HeadTest, OfTwoThatDoNotReachEachOtherOneIsLeftOut) {
  run(3);
  for (int i = 0; i < 2; ++i) {
    pass(milliseconds(200));
    says_broken(1, collective::Broken::Kind::kLate, 2);
    says_broken(2, collective::Broken::Kind::kLate, 1);
    pass(milliseconds(200));
  }
  EXPECT_EQ(members(), nodes({0, 1}));
  EXPECT_TRUE(killed_.empty());
  pass(seconds(11));
  EXPECT_EQ(members(), nodes({0, 1, 2})) << "it gets another chance";
}

TEST_F(HeadTest, NobodyIsLeftOutWhomTheOthersNeed) {
  make({.life = 41, .cover_losses = 0}, kGroupBytes);
  run(3);
  ASSERT_TRUE(submit(1));
  for (int i = 0; i < 100 && failures_.empty(); ++i) {
    pass(milliseconds(200));
    says_broken(1, collective::Broken::Kind::kLate, 2);
    pass(milliseconds(200));
    ASSERT_EQ(members(), nodes({0, 1, 2}));
  }
  EXPECT_GE(now_ - Time{}, seconds(20));
  EXPECT_NE(failures_[1].find("do not reach"), std::string::npos) << failures_[1];
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
    if (i == 1) ASSERT_TRUE(submit(2));
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
