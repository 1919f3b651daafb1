#include "cluster/planner_placer.h"

#include <gtest/gtest.h>

#include <set>

namespace conclave::cluster {
namespace {

const model::ModelSource& ember() {
  static const model::ModelSource source = [] {
    auto opened = model::ModelSource::open("models/ember");
    EXPECT_TRUE(opened) << opened.error().message;
    return std::move(*opened);
  }();
  return source;
}

std::vector<NodeFacts> machines(std::size_t n, double usable_bytes) {
  std::vector<NodeFacts> nodes;
  for (std::size_t i = 0; i < n; ++i) {
    plan::Machine machine;
    machine.name = "m";
    machine.memory_bytes = machine.usable_bytes = usable_bytes;
    machine.peak_bandwidth = 20e9;
    machine.prefill_flops = 1e11;
    nodes.push_back({NodeId{i}, machine});
  }
  return nodes;
}

std::unique_ptr<PlannerPlacer> placer(PlacerOptions options) {
  options.pages = 32;
  auto made = PlannerPlacer::create(ember(), options);
  EXPECT_TRUE(made) << made.error().message;
  return std::move(*made);
}

// Every head, column and vocabulary row belongs to exactly one virtual rank, in order.
void expect_whole(const Layout& layout) {
  const model::Slice whole = model::Slice::whole(ember().config());
  model::Slice end;
  for (const VirtualRank& rank : layout.virtual_ranks) {
    EXPECT_TRUE(model::check_slice(ember().config(), rank.slice));
    EXPECT_EQ(rank.slice.heads.begin, end.heads.end);
    EXPECT_EQ(rank.slice.expert_columns.begin, end.expert_columns.end);
    EXPECT_EQ(rank.slice.shared_columns.begin, end.shared_columns.end);
    EXPECT_EQ(rank.slice.dense_columns.begin, end.dense_columns.end);
    EXPECT_EQ(rank.slice.vocab.begin, end.vocab.end);
    end = rank.slice;
  }
  EXPECT_EQ(end.heads.end, layout.attention_replicated ? 0 : whole.heads.end);
  EXPECT_EQ(end.expert_columns.end, whole.expert_columns.end);
  EXPECT_EQ(end.shared_columns.end, whole.shared_columns.end);
  EXPECT_EQ(end.dense_columns.end, whole.dense_columns.end);
  EXPECT_EQ(end.vocab.end, whole.vocab.end);
}

TEST(PlannerPlacer, OneMachineComputesTheWholeModel) {
  const auto made = placer({});
  const auto layout = made->place(machines(1, 10e9));
  ASSERT_TRUE(layout) << layout.error().message;
  EXPECT_EQ(layout->virtual_ranks.size(), 1u);
  EXPECT_EQ(layout->homes, std::vector<NodeId>{kHeadNode});
  expect_whole(*layout);
}

// Homes can hold what they are home of, whole pages counted.
void expect_fits(const Layout& layout, std::uint64_t usable_bytes) {
  for (std::size_t group = 0; group < layout.homes.size(); ++group) {
    std::uint64_t bytes = layout.common_bytes + layout.kv_bytes;
    if (group == 0) bytes += layout.embedding_bytes;
    for (const VirtualRank& rank : layout.virtual_ranks) {
      if (rank.group == group) bytes += rank.weight_bytes;
    }
    EXPECT_LE(bytes, usable_bytes) << layout.homes.size() << " homes, group " << group;
  }
}

TEST(PlannerPlacer, MachinesThatAreTooSmallShareIt) {
  for (const plan::Strategy strategy : {plan::Strategy::kSlice, plan::Strategy::kPipeline}) {
    PlacerOptions options;
    options.strategy = strategy;
    const auto made = placer(options);
    for (const std::size_t n : {2u, 3u, 5u}) {
      const auto layout = made->place(machines(n, 42e6));
      ASSERT_TRUE(layout) << n << ": " << layout.error().message;
      EXPECT_GT(layout->homes.size(), 1u);
      if (strategy == plan::Strategy::kSlice) expect_whole(*layout);
      expect_fits(*layout, 42'000'000);
    }
  }
}

TEST(PlannerPlacer, TooLittleMemoryIsAnErrorWithBytes) {
  const auto made = placer({});
  const auto layout = made->place(machines(2, 5e6));
  ASSERT_FALSE(layout);
  EXPECT_EQ(layout.error().code, ErrorCode::kExhausted);
}

TEST(PlannerPlacer, SharesOverrideThePlannerAndMayBeZero) {
  PlacerOptions options;
  options.cover_losses = 0;
  options.shares = {0, 3, 0, 1};
  const auto made = placer(options);
  const auto layout = made->place(machines(5, 10e9));
  ASSERT_TRUE(layout) << layout.error().message;
  ASSERT_EQ(layout->homes.size(), 5u);
  EXPECT_EQ(layout->virtual_ranks.size(), 5u);
  expect_whole(*layout);
  EXPECT_EQ(layout->virtual_ranks[0].slice.heads.size(), 0u);
  EXPECT_GT(layout->virtual_ranks[1].slice.heads.size(),
            layout->virtual_ranks[3].slice.heads.size());
  EXPECT_EQ(layout->virtual_ranks[4].slice.vocab.size(), 0u);
}

TEST(PlannerPlacer, SharesThatDoNotFitAreAnError) {
  PlacerOptions options;
  options.shares = {1, 1};
  const auto layout = placer(options)->place(machines(2, 5e6));
  ASSERT_FALSE(layout);
  EXPECT_EQ(layout.error().code, ErrorCode::kExhausted);
}

TEST(PlannerPlacer, CoveredGroupsAreCutForEachOtherMachine) {
  PlacerOptions options;
  options.shares = {1, 1, 1};
  const auto made = placer(options);
  const auto layout = made->place(machines(3, 10e9));
  ASSERT_TRUE(layout) << layout.error().message;
  std::multiset<std::uint16_t> groups;
  for (const VirtualRank& rank : layout->virtual_ranks) groups.insert(rank.group);
  EXPECT_EQ(groups, (std::multiset<std::uint16_t>{0, 1, 1, 2, 2}));
  expect_whole(*layout);
}

ExpertCounts low_experts_are_hot() {
  const model::ModelConfig& config = ember().config();
  ExpertCounts counts{.n_layers = config.n_layers, .n_experts = config.n_experts, .chosen = {}};
  for (std::size_t i = 0; i < config.n_layers * config.n_experts; ++i) {
    counts.chosen.push_back(1000 - i % config.n_experts);
  }
  return counts;
}

std::size_t survived(const Layout& layout, std::size_t n, double usable_bytes) {
  std::vector<NodeRoom> rooms;
  for (std::size_t i = 0; i < n; ++i) {
    rooms.push_back({NodeId{i}, static_cast<std::uint64_t>(usable_bytes)});
  }
  return losses_survived(layout, assign_holdings(layout, rooms, {}, 2));
}

TEST(PlannerPlacer, HotExpertsGetCopiesWhereThereIsRoom) {
  const model::ModelConfig& config = ember().config();
  PlacerOptions options;
  options.strategy = plan::Strategy::kExpert;
  options.shares = {1, 1, 1};
  options.hot_experts = 3;
  std::set<std::size_t> numbers;
  for (double usable = 24e6; usable < 60e6; usable += 1e6) {
    const auto made = placer(options);
    const auto before = made->place(machines(3, usable));
    if (!before && usable < 30e6) continue;  // too little for the model itself
    ASSERT_TRUE(before) << before.error().message;
    EXPECT_EQ(n_replicas(*before), 0u) << "nothing is known yet";
    made->set_expert_counts(low_experts_are_hot());
    const auto layout = made->place(machines(3, usable));
    ASSERT_TRUE(layout) << layout.error().message;
    numbers.insert(n_replicas(*layout));
    EXPECT_TRUE(check_experts(config, *layout));
    for (const VirtualRank& rank : layout->virtual_ranks) {
      EXPECT_TRUE(model::check_slice(config, rank.slice));
    }
    EXPECT_EQ(survived(*layout, 3, usable), survived(*before, 3, usable)) << usable;
    if (n_replicas(*layout) > 0) expect_fits(*layout, static_cast<std::uint64_t>(usable));
  }
  EXPECT_EQ(*numbers.begin(), 0u);
  EXPECT_EQ(*numbers.rbegin(), 3 * config.n_moe_layers());
  EXPECT_GT(numbers.size(), 2u) << "and some of them where memory is short";
}

TEST(PlannerPlacer, OtherStrategiesCopyNoExperts) {
  PlacerOptions options;
  options.shares = {1, 1};
  options.hot_experts = 3;
  const auto made = placer(options);
  made->set_expert_counts(low_experts_are_hot());
  const auto layout = made->place(machines(2, 10e9));
  ASSERT_TRUE(layout) << layout.error().message;
  EXPECT_EQ(n_replicas(*layout), 0u);
}

}  // namespace
}  // namespace conclave::cluster
