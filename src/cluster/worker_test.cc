// One worker between a scripted agent and a toy model: what it does with what it is told.
#include "cluster/worker.h"

#include <gtest/gtest.h>

#include <deque>

#include "cluster/facts.h"
#include "cluster/layout.h"
#include "cluster/messages.h"
#include "engine/integer_backend.h"

namespace conclave::cluster {
namespace {

using engine::IntegerBackend;
using wire::pb::FromWorker;
using wire::pb::ToWorker;

// Gives one batch of messages whenever the worker asks, and is gone after the last.
class ScriptedAgent final : public AgentLink {
 public:
  int fd() const override { return -1; }
  Result<std::vector<ToWorker>> receive(bool wait) override {
    if (script.empty()) {
      if (wait) return unavailable("the agent is gone");
      return std::vector<ToWorker>();
    }
    std::vector<ToWorker> batch = std::move(script.front());
    script.pop_front();
    return batch;
  }
  bool send(std::span<const FromWorker> messages) override {
    said.insert(said.end(), messages.begin(), messages.end());
    return true;
  }

  std::deque<std::vector<ToWorker>> script;
  std::vector<FromWorker> said;
};

class ToyHost final : public ModelHost {
 public:
  ToyHost() : backend_(std::make_unique<IntegerBackend>(engine::IntegerOptions{})) {}
  void want(const wire::pb::Assignment& assignment) override {
    wanted.push_back(assignment.hold_size());
  }
  Result<backend::Backend*> activate(std::span<const std::size_t> virtual_ranks) override {
    if (!has_model) return not_found("virtual rank 0 is not in memory");
    backend_->activate(virtual_ranks);
    return static_cast<backend::Backend*>(backend_.get());
  }
  engine::Division division() const override {
    return {.vocab_of_virtual_rank = {{0, engine::kIntegerVocab}}};
  }
  const text::TextModel* text() const override { return nullptr; }
  void another_backend() {
    backend_ = std::make_unique<IntegerBackend>(engine::IntegerOptions{.seed = 2});
  }

  bool has_model = true;
  std::vector<int> wanted;

 private:
  std::unique_ptr<IntegerBackend> backend_;
};

// Nobody comes.
class EmptyFabric final : public transport::Fabric {
 public:
  Result<std::unique_ptr<transport::Transport>> join(const transport::GroupSpec& spec, Time,
                                                     transport::Watch* watch) override {
    ++n_joins;
    if (watch->interrupted()) return unavailable("interrupted");
    watch->absent(static_cast<transport::Rank>(spec.ranks.size() - 1));
    return unavailable("nobody comes");
  }
  int n_joins = 0;
};

wire::pb::Layout whole_model() {
  Layout layout;
  layout.id = 3;
  VirtualRank& rank = layout.virtual_ranks.emplace_back();
  rank.slice = model::Slice::whole(engine::integer_config({}));
  return to_message(layout);
}

// Of so many ranks, of which this is the first and computes everything.
ToWorker epoch(std::uint32_t number, bool fresh, std::uint64_t head = 1, int n_ranks = 1) {
  ToWorker message;
  wire::pb::Assignment* assignment = message.mutable_assignment();
  assignment->set_head(head);
  *assignment->mutable_layout() = whole_model();
  assignment->add_hold(0);
  if (number == 0) return message;
  wire::pb::Epoch* epoch = assignment->mutable_epoch();
  epoch->set_epoch(number);
  epoch->set_layout(3);
  epoch->set_fresh(fresh);
  epoch->add_computed_by(0);
  for (int rank = 0; rank < n_ranks; ++rank)
    *epoch->add_ranks() = to_message(transport::Endpoint{});
  return message;
}

ToWorker admit(std::uint64_t id, std::uint32_t attempt = 1) {
  engine::Request request;
  request.id = RequestId{id};
  request.prompt = {TokenId{3}, TokenId{4}};
  request.sampling.temperature = 0.0f;
  request.max_tokens = 3;
  ToWorker message;
  *message.mutable_admit() = to_message(request, attempt);
  return message;
}

class WorkerTest : public testing::Test {
 protected:
  Error run(std::deque<std::vector<ToWorker>> script) {
    agent_.script = std::move(script);
    Worker worker(agent_, fabric_, host_, pulse_, clock_, {}, {});
    return worker.run();
  }
  std::vector<std::uint32_t> joined() const {
    std::vector<std::uint32_t> epochs;
    for (const FromWorker& message : agent_.said) {
      if (message.has_joined()) epochs.push_back(message.joined().epoch());
    }
    return epochs;
  }
  std::vector<wire::pb::Broken> broken() const {
    std::vector<wire::pb::Broken> all;
    for (const FromWorker& message : agent_.said) {
      if (message.has_broken()) all.push_back(message.broken());
    }
    return all;
  }
  std::vector<wire::pb::Token> tokens() const {
    std::vector<wire::pb::Token> all;
    for (const FromWorker& message : agent_.said) {
      if (message.has_token()) all.push_back(message.token());
    }
    return all;
  }

  ScriptedAgent agent_;
  EmptyFabric fabric_;
  ToyHost host_;
  WorkerPulse pulse_;
  ManualClock clock_;
};

TEST_F(WorkerTest, JoinsAndAnswers) {
  EXPECT_EQ(run({{epoch(1, true)}, {admit(7)}}).code, ErrorCode::kUnavailable);
  EXPECT_EQ(joined(), std::vector<std::uint32_t>{1});
  const std::vector<wire::pb::Token> said = tokens();
  ASSERT_EQ(said.size(), 3u);
  for (std::uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(said[i].request(), 7u);
    EXPECT_EQ(said[i].index(), i);
  }
  EXPECT_EQ(said[2].finish(), static_cast<std::uint32_t>(engine::FinishReason::kLength));
  EXPECT_FALSE(pulse_.busy);
}

TEST_F(WorkerTest, AMessageWithoutABodyEndsIt) {
  EXPECT_EQ(run({{ToWorker()}}).code, ErrorCode::kCorrupt);
}

TEST_F(WorkerTest, ARequestBeforeAnyEpochIsRefused) {
  run({{admit(7)}});
  ASSERT_EQ(tokens().size(), 1u);
  EXPECT_EQ(tokens()[0].finish(), static_cast<std::uint32_t>(engine::FinishReason::kError));
}

TEST_F(WorkerTest, AnEpochIsJoinedOnce) {
  run({{epoch(1, true)}, {epoch(1, true)}, {epoch(2, false)}});
  EXPECT_EQ(joined(), (std::vector<std::uint32_t>{1, 2}));
}

// Its epochs count anew: number 1 is another one.
TEST_F(WorkerTest, AnotherHeadsEpochIsAnother) {
  run({{epoch(1, true, /*head=*/1)}, {epoch(0, false, /*head=*/2)}, {epoch(1, true, /*head=*/2)}});
  EXPECT_EQ(joined(), (std::vector<std::uint32_t>{1, 1}));
}

TEST_F(WorkerTest, AFreshEpochDropsRequestsAndAnotherDoesNot) {
  run({{epoch(1, true), admit(7), epoch(2, false)}});
  EXPECT_EQ(tokens().size(), 3u);
  agent_.said.clear();
  run({{epoch(1, true), admit(7), epoch(2, true)}});
  EXPECT_TRUE(tokens().empty());
  agent_.said.clear();
  run({{epoch(1, true), admit(7), epoch(2, true), admit(7, 2)}});
  ASSERT_EQ(tokens().size(), 3u);
  EXPECT_EQ(tokens()[0].attempt(), 2u);
}

TEST_F(WorkerTest, WithoutAnEpochNothingIsComputed) {
  run({{epoch(1, true), admit(7), epoch(0, false)}});
  EXPECT_TRUE(tokens().empty());
}

TEST_F(WorkerTest, ACancelledRequestSaysNothingMore) {
  ToWorker cancel;
  cancel.mutable_cancel()->set_request(7);
  run({{epoch(1, true), admit(7), cancel}});
  EXPECT_TRUE(tokens().empty());
}

TEST_F(WorkerTest, WhatIsNotInMemoryBreaksTheEpoch) {
  host_.has_model = false;
  run({{epoch(1, true)}});
  ASSERT_EQ(broken().size(), 1u);
  EXPECT_EQ(broken()[0].epoch(), 1u);
  EXPECT_EQ(broken()[0].peer(), transport::kRanksMax);
  EXPECT_TRUE(joined().empty());
}

TEST_F(WorkerTest, APeerThatDoesNotComeIsNamed) {
  run({{epoch(1, true, 1, /*n_ranks=*/3)}});
  ASSERT_EQ(broken().size(), 1u);
  EXPECT_EQ(broken()[0].peer(), 2u);
  EXPECT_EQ(broken()[0].kind(), static_cast<std::uint32_t>(collective::Broken::Kind::kLate));
}

// While it waits for its peers it reads what the agent says: another epoch ends the wait, and what
// to hold is passed on at once.
TEST_F(WorkerTest, ANewerEpochEndsTheWaitForPeers) {
  ToWorker next = epoch(2, true);
  next.mutable_assignment()->add_hold(0);
  run({{epoch(1, true, 1, /*n_ranks=*/2)}, {next}});
  EXPECT_EQ(fabric_.n_joins, 1);
  ASSERT_EQ(broken().size(), 1u);
  EXPECT_EQ(broken()[0].kind(), static_cast<std::uint32_t>(collective::Broken::Kind::kInterrupted));
  EXPECT_EQ(joined(), std::vector<std::uint32_t>{2});
  EXPECT_EQ(host_.wanted, (std::vector<int>{1, 2, 2}));
}

}  // namespace
}  // namespace conclave::cluster
