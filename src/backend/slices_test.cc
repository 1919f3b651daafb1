// Several slices of a model in one backend: the equalities that a take-over rests on
// (docs/design.md 3).
#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "backend/test_model.h"

namespace conclave::backend {
namespace {

constexpr std::array<std::size_t, 3> kAll = {0, 1, 2};

constexpr std::size_t kNaiveRows = 130;  // a prompt that takes the naive form

// Two prompts, then a row of each.
std::vector<std::vector<Part>> some_steps(std::size_t prompt) {
  return {{{some_tokens(prompt, 3), 0, {0, 4, 2}}, {some_tokens(5, 4), 0, {7}}},
          {{some_tokens(1, 5), prompt, {0, 4, 2}, true}, {some_tokens(1, 6), 5, {7}, true}}};
}

std::vector<float> run_steps(const std::vector<Node>& nodes, std::size_t prompt = 10) {
  std::vector<float> logits;
  for (const std::vector<Part>& step : some_steps(prompt)) {
    const std::vector<float> part = run(nodes, step);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

// As run_steps over backends of these slices each.
std::vector<float> run_divided(const CpuOptions& options,
                               const std::vector<std::vector<model::Slice>>& ranks,
                               std::size_t prompt = 10) {
  std::vector<Node> nodes;
  for (const std::vector<model::Slice>& slices : ranks) {
    nodes.push_back(make_node(options, slices));
  }
  return run_steps(nodes, prompt);
}

TEST(Slices, WhoComputesThemNeverChangesABit) {
  const std::vector<model::Slice> s = three_slices();
  for (const CpuOptions& options : {CpuOptions{}, CpuOptions{.threads = 3, .exact = true},
                                    CpuOptions{.weights = model::WeightsMode::kInt8}}) {
    const std::vector<float> apart = run_divided(options, {{s[0]}, {s[1]}, {s[2]}}, kNaiveRows);
    EXPECT_EQ(run_divided(options, {s}, kNaiveRows), apart);
    EXPECT_EQ(run_divided(options, {{s[0], s[1]}, {s[2]}}, kNaiveRows), apart);
    EXPECT_EQ(run_divided(options, {{s[0]}, {s[1], s[2]}}, kNaiveRows), apart);
  }
}

TEST(Slices, UnevenSlicesAddUpToTheWholeModel) {
  const CpuOptions options{.exact = true};
  const std::vector<model::Slice> s = three_slices();
  const std::vector<float> whole = run_divided(options, {{whole_slice()}});
  EXPECT_LT(relative_error(run_divided(options, {s}), whole), 1e-5);
  EXPECT_LT(relative_error(run_divided(options, {{s[0]}, {s[1], s[2], no_slice()}}), whole), 1e-5);
  EXPECT_LT(relative_error(run_divided(options, {s, {no_slice()}, {}}), whole), 1e-5);
}

// A rank that holds all but the embedding, behind one that holds nothing else: the sums gain only
// zeros, so the logits keep their bits.
TEST(Slices, AStepBegunFromSentRowsKeepsTheBits) {
  model::Slice holder = no_slice();
  holder.embedding = true;
  model::Slice rest = whole_slice();
  rest.embedding = false;
  const CpuOptions options{.exact = true};
  EXPECT_EQ(run_divided(options, {{holder}, {rest}}), run_divided(options, {{whole_slice()}}));
}

// `slice-ra`: every rank computes all heads as one slice, and its columns as another.
TEST(Slices, ReplicatedAttentionIsASliceOfHeadsAlone) {
  model::Slice attention = no_slice();
  attention.heads = whole_slice().heads;
  attention.embedding = true;
  std::vector<model::Slice> columns = three_slices();
  for (model::Slice& slice : columns) slice.heads = {0, 0};
  const CpuOptions options{.exact = true};
  const std::vector<float> whole = run_divided(options, {{whole_slice()}});
  EXPECT_LT(relative_error(run_divided(options, {{attention, columns[0], columns[1], columns[2]}}),
                           whole),
            1e-5);

  const Node replicated = make_node(options, {attention, columns[0]});
  const Node alone = make_node(options, {whole_slice()});
  const std::vector<TokenId> tokens = some_tokens(4, 1);
  const std::vector<PageIndex> pages = {0};
  const std::vector<SequenceRows> sequences = {{0, 4, 0, pages}};
  const Step step{tokens, sequences, {}};
  for (const Node* node : {&replicated, &alone}) {
    node->backend->embed(step);
    node->backend->attention(LayerId{0});
  }
  EXPECT_TRUE(std::ranges::equal(replicated.backend->partial(0), alone.backend->partial(0)));
  EXPECT_TRUE(std::ranges::all_of(replicated.backend->partial(1), [](float x) { return x == 0; }));
  replicated.backend->feed_forward(LayerId{0});
  EXPECT_TRUE(std::ranges::all_of(replicated.backend->partial(0), [](float x) { return x == 0; }));
}

// `expert`: whole experts, here some on each slice and none on one.
TEST(Slices, WholeExpertsAddUp) {
  const std::size_t n = ember().config().n_experts;
  std::vector<model::Slice> slices = three_slices();
  const std::array<kernels::Range, 3> experts = {{{0, n / 3}, {n / 3, n / 3}, {n / 3, n}}};
  for (std::size_t i = 0; i < slices.size(); ++i) {
    slices[i].expert_columns = whole_slice().expert_columns;
    slices[i].experts = experts[i];
  }
  for (const CpuOptions& options :
       {CpuOptions{.exact = true}, CpuOptions{.exact = true, .weights = model::WeightsMode::kInt8},
        CpuOptions{}}) {
    const std::vector<float> whole = run_divided(options, {{whole_slice()}});
    const std::vector<float> apart = run_divided(options, {{slices[0]}, {slices[1]}, {slices[2]}});
    EXPECT_LT(relative_error(apart, whole), options.exact ? 1e-5 : 2e-2);
    EXPECT_EQ(run_divided(options, {slices}), apart);
  }
  const std::size_t bytes = cpu_slice_bytes(ember(), slices[1], {});
  EXPECT_LT(bytes, cpu_slice_bytes(ember(), slices[0], {}));
}

// Thirds of the experts; the hottest of each layer, say 0 to 3, also on the others.
std::vector<model::Slice> slices_with_copies() {
  const model::ModelConfig& config = ember().config();
  const std::size_t n = config.n_experts;
  std::vector<model::Slice> slices = three_slices();
  const std::array<kernels::Range, 3> experts = {{{0, n / 2}, {n / 2, n - 4}, {n - 4, n}}};
  for (std::size_t i = 0; i < slices.size(); ++i) {
    slices[i].expert_columns = whole_slice().expert_columns;
    slices[i].experts = experts[i];
    for (std::size_t l = 0; i > 0 && l < config.n_layers; ++l) {
      const LayerId layer{static_cast<std::uint16_t>(l)};
      if (!config.is_moe(layer)) continue;
      for (std::uint16_t e = 0; e < 8; ++e) {
        if (e % 2 == i - 1 || l % 2 == 0) slices[i].replicas.push_back({layer, ExpertId{e}});
      }
    }
  }
  return slices;
}

std::vector<Node> nodes_with_copies(const CpuOptions& options,
                                    const std::vector<std::vector<std::size_t>>& ranks) {
  const std::vector<model::Slice> slices = slices_with_copies();
  std::vector<DivisionMember> members;
  for (const model::Slice& slice : slices) members.push_back({slice, members.size()});
  const auto division = std::make_shared<const ExpertDivision>(ember().config(), members);
  std::vector<Node> nodes;
  for (const std::vector<std::size_t>& rank : ranks) {
    std::vector<model::Slice> held;
    for (const std::size_t i : rank) held.push_back(slices[i]);
    nodes.push_back(make_node(options, held, division));
  }
  return nodes;
}

TEST(Slices, CopiesOfExpertsAddUpAndKeepTheBits) {
  for (const model::Slice& slice : slices_with_copies()) {
    EXPECT_TRUE(model::check_slice(ember().config(), slice));
  }
  for (const CpuOptions& options : {CpuOptions{.exact = true}, CpuOptions{}}) {
    const std::vector<float> whole = run_divided(options, {{whole_slice()}});
    const std::vector<float> apart = run_steps(nodes_with_copies(options, {{0}, {1}, {2}}));
    EXPECT_LT(relative_error(apart, whole), options.exact ? 1e-5 : 2e-2);
    EXPECT_EQ(run_steps(nodes_with_copies(options, {{0, 1, 2}})), apart);
    EXPECT_EQ(run_steps(nodes_with_copies(options, {{0}, {1, 2}})), apart) << "a take-over";
  }
}

TEST(Slices, CopiesStandBesideReplicatedAttention) {
  model::Slice attention = no_slice();
  attention.heads = whole_slice().heads;
  attention.embedding = true;
  std::vector<model::Slice> slices = slices_with_copies();
  std::vector<DivisionMember> members;
  for (model::Slice& slice : slices) {
    slice.heads = {0, 0};
    slice.embedding = false;
    members.push_back({slice, members.size()});
  }
  const auto division = std::make_shared<const ExpertDivision>(ember().config(), members);
  std::vector<Node> nodes;
  nodes.push_back(
      make_node({.exact = true}, {attention, slices[0], slices[1], slices[2]}, division));
  EXPECT_LT(relative_error(run_steps(nodes), run_divided({.exact = true}, {{whole_slice()}})),
            1e-5);
}

// Who computes a copy depends on the row alone.
TEST(Slices, CopiesKeepTheBitsOfARowInAnyBatch) {
  const std::vector<std::vector<std::size_t>> ranks = {{0}, {1}, {2}};
  const Part one{some_tokens(3, 1), 0, {1}};
  const Part other{some_tokens(4, 2), 0, {2}};
  const std::vector<float> both = run(nodes_with_copies({}, ranks), {one, other});
  std::vector<float> apart = run(nodes_with_copies({}, ranks), {one});
  const std::vector<float> second = run(nodes_with_copies({}, ranks), {other});
  apart.insert(apart.end(), second.begin(), second.end());
  EXPECT_EQ(both, apart);
}

// `pipeline`: whole layers; where a slice lacks a layer its share is zero, so that the sum over all
// has the bits of the one that has it.
TEST(Slices, WholeLayersKeepTheBits) {
  const std::size_t n = ember().config().n_layers;
  std::vector<model::Slice> stages(3, whole_slice());
  stages[0].layers = {0, 2};
  stages[1].layers = {2, 2};
  stages[2].layers = {2, n};
  stages[0].vocab = stages[1].vocab = {0, 0};
  stages[1].embedding = stages[2].embedding = false;
  for (const CpuOptions& options : {CpuOptions{.exact = true}, CpuOptions{}}) {
    const std::vector<float> whole = run_divided(options, {{whole_slice()}});
    EXPECT_EQ(run_divided(options, {stages}), whole);
    EXPECT_EQ(run_divided(options, {{stages[0]}, {stages[1], stages[2]}}), whole);
  }
}

TEST(Slices, OnlyActiveOnesTakePart) {
  const std::vector<model::Slice> s = three_slices();
  std::vector<Node> nodes;
  nodes.push_back(make_node({}, s));
  Backend& backend = *nodes[0].backend;
  EXPECT_EQ(backend.slices().size(), 3u);
  EXPECT_EQ(backend.slices()[1], s[1]);
  EXPECT_TRUE(std::ranges::equal(backend.active(), kAll));
  const std::vector<float> all = run_steps(nodes);
  backend.activate(std::array<std::size_t, 2>{0, 2});
  EXPECT_EQ(run_steps(nodes), run_divided({}, {{s[0], s[2]}}));
  backend.activate({});
  EXPECT_TRUE(run_steps(nodes).empty());
  backend.activate(kAll);
  EXPECT_EQ(run_steps(nodes), all);
}

// A slice taken over may stand behind those that were there before it.
TEST(Slices, PartialsComeInTheOrderOfActivating) {
  const std::vector<model::Slice> s = three_slices();
  std::vector<Node> nodes;
  nodes.push_back(make_node({}, {s[2], s[0], s[1]}));
  nodes[0].backend->activate(std::array<std::size_t, 3>{1, 2, 0});
  EXPECT_EQ(run_steps(nodes), run_divided({}, {s}));
}

TEST(Slices, ActivatingMidStepWaitsForTheNext) {
  const Node node = make_node({}, three_slices());
  const std::vector<TokenId> tokens = some_tokens(1, 1);
  const std::vector<PageIndex> pages = {0};
  const std::vector<SequenceRows> sequences = {{0, 1, 0, pages}};
  node.backend->embed({tokens, sequences, {}});
  node.backend->attention(LayerId{0});
  const std::vector<float> last(node.backend->partial(2).begin(), node.backend->partial(2).end());
  node.backend->activate(std::array<std::size_t, 1>{2});
  EXPECT_TRUE(std::ranges::equal(node.backend->partial(2), last));
  node.backend->embed({tokens, sequences, {}});
  node.backend->attention(LayerId{0});
  EXPECT_TRUE(std::ranges::equal(node.backend->partial(0), last));
}

// The head takes over what a lost machine computed: the answer goes on with the same bits.
TEST(Slices, ATakeOverKeepsEveryBit) {
  const std::vector<model::Slice> s = three_slices();
  const std::vector<std::vector<Part>> steps = some_steps(10);
  std::vector<Node> nodes;
  nodes.push_back(make_node({}, s));
  nodes.push_back(make_node({}, {s[1], s[2]}));
  nodes[0].backend->activate(std::array<std::size_t, 1>{0});
  const std::vector<float> first = run(nodes, steps[0]);
  const std::vector<float> expected = run(nodes, steps[1]);
  // The same step again, as after the loss of a peer, but alone.
  nodes[0].backend->activate(kAll);
  EXPECT_EQ(run(nodes[0], steps[1]), expected);
}

// A slice is loaded on another thread while steps run, and then computes.
TEST(Slices, OneMoreIsTakenWhileStepsGoOn) {
  const std::vector<model::Slice> s = three_slices();
  std::vector<Node> nodes;
  nodes.push_back(make_node({}, {s[0], s[1]}));
  const std::vector<float> two = run_steps(nodes);
  WeightArena arena = memory_of(cpu_slice_bytes(ember(), s[2], {}));
  EXPECT_FALSE(nodes[0].backend->hold(ember(), s[2], arena));
  std::thread loader([&arena, &s] {
    ThreadPool pool(1);
    LocalPackedSource from(ember(), pool);
    EXPECT_TRUE(load_slice(ember(), s[2], {}, from, arena, {}));
  });
  do {
    EXPECT_EQ(run_steps(nodes), two);
  } while (arena.filled_key() == 0);
  loader.join();
  ASSERT_TRUE(nodes[0].backend->hold(ember(), s[2], arena));
  EXPECT_EQ(nodes[0].backend->active().size(), 2u);
  EXPECT_EQ(run_steps(nodes), two);
  nodes[0].backend->activate(kAll);
  EXPECT_EQ(run_steps(nodes), run_divided({}, {s}));
}

TEST(Slices, AReleasedOneMovesTheOthersDown) {
  const std::vector<model::Slice> s = three_slices();
  std::vector<Node> nodes;
  nodes.push_back(make_node({}, s));
  Backend& backend = *nodes[0].backend;
  backend.activate(std::array<std::size_t, 2>{0, 2});
  const std::vector<float> expected = run_steps(nodes);
  backend.release(1);
  EXPECT_EQ(backend.slices().size(), 2u);
  EXPECT_TRUE(std::ranges::equal(backend.active(), std::array<std::size_t, 2>{0, 1}));
  EXPECT_EQ(run_steps(nodes), expected);
}

// A rank whose router chose otherwise computes again by rank 0's choice, weights included.
TEST(Slices, AnotherRanksRoutingReplacesItsOwn) {
  const Node theirs = make_node({}, three_slices());
  const Node mine = make_node({}, three_slices());
  const std::vector<TokenId> tokens = some_tokens(3, 2);
  const std::vector<PageIndex> pages = {0};
  const std::vector<SequenceRows> sequences = {{0, 3, 0, pages}};
  const LayerId moe{1};
  for (const Node* node : {&theirs, &mine}) node->backend->embed({tokens, sequences, {}});
  const Routing routing = theirs.backend->route(moe, {});
  const std::vector<ExpertId> experts(routing.experts.begin(), routing.experts.end());
  const std::vector<float> weights(routing.weights.begin(), routing.weights.end());
  theirs.backend->feed_forward(moe);

  std::vector<ExpertId> wrong;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    wrong.push_back(ExpertId{static_cast<std::uint16_t>(i)});
  }
  (void)mine.backend->route(moe, wrong);
  mine.backend->feed_forward(moe);
  EXPECT_FALSE(std::ranges::equal(mine.backend->partial(1), theirs.backend->partial(1)));
  mine.backend->set_routing(moe, {experts, weights});
  mine.backend->feed_forward(moe);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(std::ranges::equal(mine.backend->partial(i), theirs.backend->partial(i)));
  }
  // Without a route of its own, over other rows.
  const std::vector<TokenId> others = some_tokens(3, 9);
  for (const Node* node : {&theirs, &mine}) node->backend->embed({others, sequences, {}});
  mine.backend->set_routing(moe, theirs.backend->route(moe, {}));
  for (const Node* node : {&theirs, &mine}) node->backend->feed_forward(moe);
  EXPECT_TRUE(std::ranges::equal(mine.backend->partial(2), theirs.backend->partial(2)));
}

}  // namespace
}  // namespace conclave::backend
