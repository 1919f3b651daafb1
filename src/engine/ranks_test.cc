// Several ranks, each a thread, on slices of one model: the tokens of one rank, whatever happens.
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/rng.h"
#include "engine/engine.h"
#include "engine/rank_threads.h"

namespace conclave::engine {
namespace {

using collective::VirtualRank;

std::vector<Request> some_requests() {
  std::vector<Request> requests;
  for (std::uint64_t id = 1; id <= 4; ++id) {
    Request request;
    request.id = RequestId{id};
    SplitMix random(id);
    for (std::size_t i = 0; i < 20 + 37 * id; ++i) {
      request.prompt.push_back(TokenId{static_cast<std::uint32_t>(random.next() % kIntegerVocab)});
    }
    request.sampling.seed = id;
    request.sampling.temperature = id % 2 == 0 ? 0.0f : 1.0f;
    request.max_tokens = 6 + 3 * id;
    requests.push_back(std::move(request));
  }
  return requests;
}

struct Answer {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  bool operator==(const Answer&) const = default;
};
using Answers = std::map<RequestId, Answer>;

void take(std::span<const TokenEvent> events, Answers& answers) {
  for (const TokenEvent& event : events) {
    Answer& answer = answers[event.request];
    ASSERT_EQ(answer.finish, FinishReason::kNone) << "an event after the end";
    ASSERT_EQ(event.index, answer.tokens.size());
    if (event.token) answer.tokens.push_back(*event.token);
    answer.finish = event.finish;
  }
}

constexpr EngineOptions kEngineOptions{.chunk_tokens = 32};

// All requests on one rank that holds the whole model.
const Answers& expected_answers() {
  static const Answers answers = [] {
    IntegerBackend backend(IntegerOptions{});
    Engine engine(backend, nullptr, kEngineOptions);
    for (Request& request : some_requests()) EXPECT_TRUE(engine.admit(std::move(request)));
    Answers result;
    while (!engine.idle()) {
      const auto events = engine.step();
      EXPECT_TRUE(events);
      take(*events, result);
    }
    return result;
  }();
  return answers;
}

struct Scenario {
  Layout layout;
  std::vector<std::size_t> shares;
  bool attention_replicated = false;
  std::size_t direct_bytes_max = std::size_t{64} << 10;
};

std::vector<std::unique_ptr<Machine>> machines_of(const Scenario& scenario) {
  std::vector<std::unique_ptr<Machine>> machines;
  for (std::size_t i = 0; i < scenario.layout.n_ranks; ++i) {
    machines.push_back(std::make_unique<Machine>(scenario.shares, scenario.attention_replicated));
  }
  return machines;
}

std::vector<Machine*> pointers(const std::vector<std::unique_ptr<Machine>>& machines) {
  std::vector<Machine*> result;
  for (const auto& machine : machines) result.push_back(machine.get());
  return result;
}

void admit_all(Engine& engine) {
  for (Request& request : some_requests()) ASSERT_TRUE(engine.admit(std::move(request)));
}

// Runs everything undisturbed; returns rank 0's exchanges and how many steps there were.
std::pair<collective::GroupStats, std::uint64_t> run_all(
    const Layout& layout, const std::vector<std::unique_ptr<Machine>>& machines,
    std::size_t direct_bytes_max) {
  transport::LoopbackFabric fabric;
  Epoch epoch(fabric, 1, layout, pointers(machines), direct_bytes_max, {});
  Engine engine(machines[0]->backend(), nullptr, kEngineOptions);
  const Division division = machines[0]->join(epoch.head());
  EXPECT_TRUE(check_division(division, epoch.head(), machines[0]->backend()));
  engine.set_group(&epoch.head(), division);
  admit_all(engine);
  Answers answers;
  while (!engine.idle()) {
    const auto events = engine.step();
    EXPECT_TRUE(events) << events.error().message;
    if (!events) break;
    take(*events, answers);
  }
  EXPECT_EQ(answers, expected_answers());
  return {epoch.head().stats(), engine.stats().steps};
}

// `misroutes` is set for the last rank.
collective::GroupStats expect_same_tokens(const Scenario& scenario,
                                          const std::function<bool(LayerId)>& misroutes = {}) {
  const auto machines = machines_of(scenario);
  machines.back()->backend().misroutes = misroutes;
  const auto [stats, steps] = run_all(scenario.layout, machines, scenario.direct_bytes_max);
  const std::uint64_t n_layers = machines[0]->backend().config().n_layers;
  const std::uint64_t per_layer = scenario.attention_replicated ? 1 : 2;
  EXPECT_EQ(stats.exchanges, steps * n_layers * per_layer);
  return stats;
}

// Stages that end before these layers; the one of `head` has the vocabulary.
void expect_same_tokens_of_stages(const Layout& layout, const std::vector<std::size_t>& ends,
                                  std::size_t head) {
  std::vector<model::Slice> stages;
  for (std::size_t v = 0; v < ends.size(); ++v) {
    model::Slice stage = model::Slice::whole(integer_config({}));
    stage.layers = {v == 0 ? 0 : ends[v - 1], ends[v]};
    if (v < head) stage.vocab = {0, 0};
    if (v > head) stage.vocab = {stage.vocab.end, stage.vocab.end};
    stages.push_back(stage);
  }
  std::vector<std::unique_ptr<Machine>> machines;
  for (std::size_t i = 0; i < layout.n_ranks; ++i) {
    machines.push_back(std::make_unique<Machine>(stages));
  }
  EXPECT_EQ(run_all(layout, machines, std::size_t{64} << 10).first.exchanges, 0u);
}

const std::vector<VirtualRank> kThreeMachines{{0, 0}, {0, 0}, {1, 1}, {1, 1}, {2, 2}, {2, 2}};
const std::vector<std::size_t> kSixShares{3, 1, 2, 2, 0, 5};

TEST(Ranks, OneRankOfSeveralVirtualRanks) {
  expect_same_tokens({.layout = {{{0, 0}, {0, 0}, {1, 0}}, 1}, .shares = {2, 0, 5}});
  expect_same_tokens({.layout = {{{0, 0}}, 1}, .shares = {1}});
}

TEST(Ranks, SeveralRanksGiveTheTokensOfOne) {
  for (const bool replicated : {false, true}) {
    for (const std::size_t direct_bytes_max :
         {std::size_t{0}, std::size_t{512}, std::size_t{65536}}) {
      expect_same_tokens({.layout = {{{0, 0}, {1, 1}}, 2},
                          .shares = {3, 5},
                          .attention_replicated = replicated,
                          .direct_bytes_max = direct_bytes_max});
      expect_same_tokens({.layout = {kThreeMachines, 3},
                          .shares = kSixShares,
                          .attention_replicated = replicated,
                          .direct_bytes_max = direct_bytes_max});
    }
  }
}

TEST(Ranks, StagesOfAPipelineGiveTheTokensOfOne) {
  const std::size_t n = integer_config({}).n_layers;
  const Layout layout{{{0, 0}, {1, 1}, {2, 2}}, 3};
  for (const std::size_t head : {std::size_t{0}, std::size_t{1}, std::size_t{2}}) {
    expect_same_tokens_of_stages(layout, {1, 2, n}, head);
    expect_same_tokens_of_stages(layout, {0, 1, n}, head);
    expect_same_tokens_of_stages(layout, {1, n, n}, head);
  }
  // A taken-over stage: two virtual ranks on one rank.
  expect_same_tokens_of_stages({{{0, 0}, {1, 1}, {2, 0}}, 2}, {1, 2, n}, 2);
}

TEST(Ranks, HeadMayComputeNothing) {
  expect_same_tokens({.layout = {{{0, 0}, {1, 1}, {2, 2}}, 3}, .shares = {0, 3, 4}});
}

TEST(Ranks, RankThatRoutesDifferentlyChangesNoToken) {
  const auto stats = expect_same_tokens({.layout = {kThreeMachines, 3}, .shares = kSixShares},
                                        [](LayerId layer) { return layer.value == 2; });
  EXPECT_GT(stats.repairs, 10u);
  EXPECT_EQ(stats.mismatches, stats.repairs);
}

// The last of three machines dies after so many of its operations; the others take its virtual
// ranks over, one each, and repeat the step.
void run_with_death(std::size_t operation, bool replicated) {
  const Scenario scenario{.layout = {kThreeMachines, 3},
                          .shares = kSixShares,
                          .attention_replicated = replicated,
                          .direct_bytes_max = 512};
  transport::LoopbackFabric fabric;
  const auto machines = machines_of(scenario);
  StepHooks dies;
  const auto n_operations = std::make_shared<std::size_t>(0);  // hooks are copied
  dies.advanced = [&fabric, n_operations, operation] {
    if (++*n_operations == operation) fabric.kill(2);
  };
  auto epoch = std::make_unique<Epoch>(fabric, 1, scenario.layout, pointers(machines),
                                       scenario.direct_bytes_max, dies);
  Engine engine(machines[0]->backend(), nullptr, kEngineOptions);
  engine.set_group(&epoch->head(), machines[0]->join(epoch->head()));
  admit_all(engine);
  Answers answers;
  std::size_t n_errors = 0;
  while (!engine.idle()) {
    const auto events = engine.step();
    if (events) {
      take(*events, answers);
      continue;
    }
    ASSERT_EQ(++n_errors, 1u);
    ASSERT_EQ(events.error().code, ErrorCode::kUnavailable);
    ASSERT_EQ(epoch->head().broken()->kind, collective::Broken::Kind::kPeerLost);
    ASSERT_EQ(epoch->head().broken()->peer, 2);
    ASSERT_FALSE(engine.step());  // not without a new group
    epoch.reset();
    const Layout without{{{0, 0}, {0, 0}, {1, 1}, {1, 1}, {2, 0}, {2, 1}}, 2};
    epoch = std::make_unique<Epoch>(fabric, 2, without, pointers(machines),
                                    scenario.direct_bytes_max, StepHooks{});
    engine.set_group(&epoch->head(), machines[0]->join(epoch->head()));
  }
  EXPECT_EQ(n_errors, 1u);
  EXPECT_EQ(answers, expected_answers());
}

TEST(Ranks, DeathMidStepChangesNoToken) {
  for (std::size_t operation = 1; operation <= 60; operation += 3) {
    for (const bool replicated : {false, true}) {
      run_with_death(operation, replicated);
      if (testing::Test::HasFailure()) FAIL() << "operation " << operation;
    }
  }
}

// What comes between a broken step and its repetition: the rows stay those that were planned.
TEST(Ranks, CancelsAndAdmissionsWaitForTheRepeatedStep) {
  const Scenario scenario{.layout = {{{0, 0}, {1, 1}}, 2}, .shares = {1, 1}};
  transport::LoopbackFabric fabric;
  const auto machines = machines_of(scenario);
  StepHooks dies;
  dies.advanced = [&fabric, n = std::make_shared<int>(0)] {
    if (++*n == 100) fabric.kill(1);
  };
  auto epoch = std::make_unique<Epoch>(fabric, 1, scenario.layout, pointers(machines),
                                       scenario.direct_bytes_max, dies);
  Engine engine(machines[0]->backend(), nullptr, kEngineOptions);
  engine.set_group(&epoch->head(), machines[0]->join(epoch->head()));
  auto requests = some_requests();
  for (std::size_t i = 0; i < 3; ++i) ASSERT_TRUE(engine.admit(requests[i]));
  Answers answers;
  for (;;) {
    const auto events = engine.step();
    if (!events) break;
    take(*events, answers);
  }
  const std::size_t n_tokens = answers[RequestId{1}].tokens.size();
  ASSERT_GT(n_tokens, 0u);
  ASSERT_EQ(answers[RequestId{1}].finish, FinishReason::kNone);
  engine.cancel(RequestId{1});
  engine.cancel(RequestId{1});
  engine.cancel(RequestId{99});
  ASSERT_TRUE(engine.admit(requests[3]));
  EXPECT_FALSE(engine.idle());
  epoch.reset();
  epoch = std::make_unique<Epoch>(fabric, 2, scenario.layout, pointers(machines),
                                  scenario.direct_bytes_max, StepHooks{});
  engine.set_group(&epoch->head(), machines[0]->join(epoch->head()));
  const auto repeated = engine.step();
  ASSERT_TRUE(repeated);
  take(*repeated, answers);
  EXPECT_EQ(answers[RequestId{1}].tokens.size(), n_tokens);
  EXPECT_EQ(answers[RequestId{1}].finish, FinishReason::kCancelled);
  while (!engine.idle()) {
    const auto events = engine.step();
    ASSERT_TRUE(events);
    take(*events, answers);
  }
  for (const std::uint64_t id : {2u, 3u, 4u}) {
    EXPECT_EQ(answers[RequestId{id}], expected_answers().at(RequestId{id})) << id;
  }
  EXPECT_EQ(engine.stats().pages_used, 0u);
}

TEST(Ranks, ResetDropsEverythingAlsoAnUnfinishedStep) {
  const Scenario scenario{.layout = {{{0, 0}, {1, 1}}, 2}, .shares = {1, 1}};
  transport::LoopbackFabric fabric;
  const auto machines = machines_of(scenario);
  auto epoch = std::make_unique<Epoch>(fabric, 1, scenario.layout, pointers(machines),
                                       scenario.direct_bytes_max, StepHooks{});
  Engine engine(machines[0]->backend(), nullptr, kEngineOptions);
  engine.set_group(&epoch->head(), machines[0]->join(epoch->head()));
  admit_all(engine);
  ASSERT_TRUE(engine.step());
  fabric.kill(1);
  ASSERT_FALSE(engine.step());
  engine.cancel(RequestId{1});
  engine.reset();
  EXPECT_TRUE(engine.idle());
  EXPECT_EQ(engine.stats().pages_used, 0u);
  epoch.reset();
  epoch = std::make_unique<Epoch>(fabric, 2, scenario.layout, pointers(machines),
                                  scenario.direct_bytes_max, StepHooks{});
  engine.set_group(&epoch->head(), machines[0]->join(epoch->head()));
  admit_all(engine);
  Answers answers;
  while (!engine.idle()) {
    const auto events = engine.step();
    ASSERT_TRUE(events);
    take(*events, answers);
  }
  EXPECT_EQ(answers, expected_answers());
}

TEST(Ranks, DivisionMustFitGroupAndBackend) {
  const RealClock clock;
  Machine machine(std::array<std::size_t, 2>{1, 1}, false);
  const collective::Group group(nullptr, clock, {{0, 0}, {1, 0}}, {.hidden_size = kIntegerWidth});
  Division good = machine.join(group);
  const auto fits = [&](const Division& division) {
    return check_division(division, group, machine.backend()).has_value();
  };
  EXPECT_TRUE(fits(good));
  Division bad = good;
  bad.vocab_of_virtual_rank.pop_back();
  EXPECT_FALSE(fits(bad));
  bad = good;
  bad.vocab_of_virtual_rank[1].end = 63;
  EXPECT_FALSE(fits(bad));
  bad = good;
  bad.vocab_of_virtual_rank[1].begin = 33;
  EXPECT_FALSE(fits(bad));
  bad = good;
  bad.vocab_of_virtual_rank = {{0, 16}, {16, 64}};  // not the slices'
  EXPECT_FALSE(fits(bad));
  bad = good;
  bad.attention_replicated = true;  // one slice more than there is
  EXPECT_FALSE(fits(bad));
  machine.backend().activate(std::array<std::size_t, 1>{0});
  EXPECT_FALSE(fits(good));
}

// A step that rank 0 describes wrongly touches nothing.
TEST(Ranks, FollowerRefusesAStepBeyondItsLimits) {
  transport::LoopbackFabric fabric;
  const Scenario scenario{.layout = {{{0, 0}, {1, 1}}, 2}, .shares = {1, 1}};
  const auto machines = machines_of(scenario);
  std::array<std::unique_ptr<transport::Transport>, 2> transports;
  std::thread other([&] {
    transports[1] =
        *fabric.join({.epoch = 1, .rank = 1, .ranks = std::vector<transport::Endpoint>(2)},
                     Time::max(), nullptr);
  });
  transports[0] = *fabric.join(
      {.epoch = 1, .rank = 0, .ranks = std::vector<transport::Endpoint>(2)}, Time::max(), nullptr);
  other.join();
  const RealClock clock;
  const collective::GroupOptions options{.hidden_size = kIntegerWidth};
  collective::Group head(transports[0].get(), clock, scenario.layout.virtual_ranks, options);
  collective::Group group(transports[1].get(), clock, scenario.layout.virtual_ranks, options);
  Ranks ranks{.group = &group, .division = machines[1]->join(group)};
  const std::vector<float> two_rows(2 * kIntegerWidth);
  // One token 5 at position 0 on page `page`.
  const auto describe = [](std::uint32_t page) {
    return std::array<std::uint32_t, 9>{1, 1, 1, 0, 5, 1, 0, 0, page};
  };
  const auto page_64 = describe(64);
  ASSERT_TRUE(head.send_step(0, std::as_bytes(std::span(page_64)), two_rows));
  const auto first = follow_step(machines[1]->backend(), ranks);
  ASSERT_FALSE(first);
  EXPECT_EQ(first.error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(first.error().message, "step description: a page is 64; expected less than 64");
  const auto page_0 = describe(0);
  ASSERT_TRUE(head.send_step(1, std::as_bytes(std::span(page_0)), two_rows));
  const auto second = follow_step(machines[1]->backend(), ranks);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().message, "a step of 1 rows with 16 numbers of embeddings");
  EXPECT_EQ(machines[1]->backend().n_attention, 0u);
}

}  // namespace
}  // namespace conclave::engine
