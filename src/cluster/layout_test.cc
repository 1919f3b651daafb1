#include "cluster/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

namespace conclave::cluster {
namespace {

using kernels::Range;

model::ModelConfig config() {
  model::ModelConfig config;
  config.vocab_size = 200;  // 6 units and a rest
  config.n_heads = 8;
  config.moe_intermediate_size = 128;
  config.n_shared_experts = 1;
  config.intermediate_size = 320;
  return config;
}

// One group each on nodes 0, 1, 2; those of 1 and 2 are cut in two.
Layout three_machines() {
  Layout layout;
  layout.id = 1;
  layout.homes = {NodeId{0}, NodeId{1}, NodeId{2}};
  std::size_t column = 0;
  for (const int group : {0, 1, 1, 2, 2}) {
    VirtualRank& rank = layout.virtual_ranks.emplace_back();
    rank.group = static_cast<std::uint16_t>(group);
    rank.slice.embedding = false;
    rank.slice.expert_columns = {column, column + 32};
    rank.weight_bytes = 10;
    column += 32;
  }
  layout.common_bytes = 5;
  layout.embedding_bytes = 3;
  layout.kv_bytes = 2;
  layout.pages = 4;
  return layout;
}

std::vector<NodeRoom> rooms(std::initializer_list<std::uint64_t> bytes) {
  std::vector<NodeRoom> rooms;
  for (const std::uint64_t usable : bytes) rooms.push_back({NodeId{rooms.size()}, usable});
  return rooms;
}

using Set = std::set<std::size_t>;

// ---- Dividing -----------------------------------------------------------------------------------

TEST(Layout, SlicesCoverTheModelOnce) {
  plan::Placement placement;
  for (const auto& [heads, units, vocab] :
       {std::array<std::size_t, 3>{5, 1, 0}, {0, 0, 4}, {3, 3, 3}}) {
    plan::Rank rank;
    rank.n_heads = heads;
    rank.expert_units = units;
    rank.vocab_units = vocab;
    placement.ranks.push_back(rank);
  }
  const std::vector<model::Slice> slices = slices_of(config(), placement);
  ASSERT_EQ(slices.size(), 3u);
  EXPECT_EQ(slices[0].heads, (Range{0, 5}));
  EXPECT_EQ(slices[1].heads.size(), 0u);
  EXPECT_EQ(slices[2].heads, (Range{5, 8}));
  EXPECT_EQ(slices[0].expert_columns, (Range{0, 32}));
  EXPECT_EQ(slices[1].expert_columns.size(), 0u);
  EXPECT_EQ(slices[2].expert_columns, (Range{32, 128}));
  EXPECT_EQ(slices[2].vocab.end, 200u) << "the rest belongs to the last";
  for (const model::Slice& slice : slices) {
    EXPECT_EQ(slice.dense_columns.begin % 32, 0u);
    EXPECT_FALSE(slice.embedding);
  }
  EXPECT_EQ(slices[2].dense_columns.end, 320u);
}

TEST(Layout, OneStageOfAPipelineHasTheHead) {
  for (const std::size_t head : {std::size_t{0}, std::size_t{1}, std::size_t{2}}) {
    plan::Placement placement;
    placement.strategy = plan::Strategy::kPipeline;
    placement.ranks.resize(3);
    placement.ranks[1].n_layers = config().n_layers - 1;
    placement.ranks[2].n_layers = 1;
    placement.ranks[head].vocab_units = 1;
    const std::vector<model::Slice> stages = slices_of(config(), placement);
    ASSERT_EQ(stages.size(), 3u);
    EXPECT_EQ(stages[0].layers, (Range{0, 0}));
    EXPECT_EQ(stages[2].layers, (Range{config().n_layers - 1, config().n_layers}));
    std::size_t end = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(stages[i].vocab.begin, end);
      EXPECT_EQ(stages[i].vocab.size(), i == head ? config().vocab_size : 0u);
      end = stages[i].vocab.end;
    }
  }
}

TEST(Layout, PiecesCoverTheirSliceInOrderAndMayBeEmpty) {
  model::Slice slice;
  slice.heads = {2, 5};
  slice.expert_columns = {32, 96};
  slice.dense_columns = {64, 320};
  slice.vocab = {160, 200};
  for (const std::size_t n : {1u, 2u, 3u, 5u}) {
    const std::vector<model::Slice> pieces = cut(config(), slice, n);
    ASSERT_EQ(pieces.size(), n);
    model::Slice end = slice;  // where the pieces so far end
    end.heads.end = 2;
    end.expert_columns.end = 32;
    end.dense_columns.end = 64;
    end.vocab.end = 160;
    for (const model::Slice& piece : pieces) {
      EXPECT_EQ(piece.heads.begin, end.heads.end);
      EXPECT_EQ(piece.expert_columns.begin, end.expert_columns.end);
      EXPECT_EQ(piece.dense_columns.begin, end.dense_columns.end);
      EXPECT_EQ(piece.vocab.begin, end.vocab.end);
      EXPECT_EQ(piece.expert_columns.size() % 32, 0u);
      end = piece;
    }
    EXPECT_EQ(end.heads.end, 5u);
    EXPECT_EQ(end.expert_columns.end, 96u);
    EXPECT_EQ(end.dense_columns.end, 320u);
    EXPECT_EQ(end.vocab.end, 200u);
  }
  const std::vector<model::Slice> five = cut(config(), slice, 5);
  EXPECT_TRUE(
      std::ranges::any_of(five, [](const auto& s) { return s.expert_columns.size() == 0; }));
}

// ---- Who holds what -----------------------------------------------------------------------------

TEST(Layout, HomesHoldTheirGroupsAndOthersTheCopies) {
  const Layout layout = three_machines();
  const Holdings holdings = assign_holdings(layout, rooms({100, 100, 100}), {}, 2);
  EXPECT_TRUE(std::ranges::includes(holdings.at(NodeId{1}), Set{1, 2}));
  EXPECT_TRUE(std::ranges::includes(holdings.at(NodeId{2}), Set{3, 4}));
  for (std::size_t v = 1; v < 5; ++v) {
    EXPECT_EQ(std::ranges::count_if(holdings, [v](const auto& h) { return h.second.contains(v); }),
              2)
        << v;
  }
  EXPECT_FALSE(holdings.at(NodeId{1}).contains(0)) << "nothing survives the head";
  // A group's backups are spread.
  EXPECT_NE(holdings.at(NodeId{0}).contains(1), holdings.at(NodeId{0}).contains(2));
  EXPECT_EQ(losses_survived(layout, holdings), 1u);
}

TEST(Layout, WhatIsInMemoryStays) {
  const Layout layout = three_machines();
  const Holdings held = {{NodeId{0}, {0, 2, 3}}, {NodeId{1}, {1, 2}}, {NodeId{2}, {3, 4, 1}}};
  const Holdings holdings = assign_holdings(layout, rooms({100, 100, 100}), held, 2);
  EXPECT_TRUE(holdings.at(NodeId{0}).contains(2));
  EXPECT_TRUE(holdings.at(NodeId{0}).contains(3));
  EXPECT_TRUE(holdings.at(NodeId{2}).contains(1));
}

TEST(Layout, EverythingOnceBeforeAnythingTwice) {
  const Layout layout = three_machines();
  // Node 2 is gone; node 1 has room for its own and one more, the head for its own and one more.
  const Holdings holdings = assign_holdings(layout, rooms({5 + 3 + 2 + 20, 5 + 2 + 30}), {}, 2);
  EXPECT_TRUE(uncovered(layout, holdings).empty());
  EXPECT_EQ(holdings.at(NodeId{0}).size() + holdings.at(NodeId{1}).size(), 5u);
  EXPECT_EQ(losses_survived(layout, holdings), 0u);
}

TEST(Layout, WhatNobodyHasRoomForIsMissing) {
  const Layout layout = three_machines();
  const Holdings holdings = assign_holdings(layout, rooms({5 + 3 + 2 + 10, 5 + 2 + 25}), {}, 2);
  EXPECT_EQ(uncovered(layout, holdings).size(), 2u);
  // A byte less than what every node has to hold: then it holds nothing.
  const Holdings tiny = assign_holdings(layout, rooms({100, 6, 100}), {}, 1);
  EXPECT_FALSE(tiny.contains(NodeId{1}));
  EXPECT_TRUE(uncovered(layout, tiny).empty());
}

TEST(Layout, LossesAreCountedWithTheWorstNodeFirst) {
  const Layout layout = three_machines();
  EXPECT_EQ(losses_survived(layout, {{NodeId{0}, {0, 1, 2, 3, 4}}, {NodeId{1}, {1, 2}}}), 1u);
  EXPECT_EQ(losses_survived(layout, {{NodeId{0}, {0}}, {NodeId{1}, {1, 2, 3, 4}}}), 0u);
  EXPECT_EQ(losses_survived(layout, {{NodeId{0}, {0}}}), 0u);
  EXPECT_EQ(
      losses_survived(
          layout,
          {{NodeId{0}, {0, 1, 2, 3, 4}}, {NodeId{1}, {}}, {NodeId{2}, {3}}, {NodeId{3}, {4}}}),
      3u);
}

// ---- Who computes it ----------------------------------------------------------------------------

TEST(Layout, HomesComputeAndOthersShareWhatIsLeft) {
  const Layout layout = three_machines();
  const auto computing =
      assign_computing(layout, {{NodeId{0}, {0, 3, 4}}, {NodeId{1}, {1, 2, 3, 4}}});
  ASSERT_TRUE(computing);
  EXPECT_EQ((*computing)[1], NodeId{1});
  EXPECT_EQ((*computing)[2], NodeId{1});
  // The head computes 10 bytes, node 1 20: one more for the head, then it is a draw.
  EXPECT_EQ((*computing)[3], NodeId{0});
  EXPECT_EQ((*computing)[4], NodeId{0});
  EXPECT_FALSE(assign_computing(layout, {{NodeId{0}, {0, 3}}, {NodeId{1}, {1, 2, 3}}}));
}

// ---- Copies of experts --------------------------------------------------------------------------

TEST(Layout, CopiesAreCutWithTheirSlice) {
  model::Slice slice;
  slice.experts = {0, 3};
  for (std::uint16_t e = 4; e < 9; ++e) slice.replicas.push_back({LayerId{1}, ExpertId{e}});
  std::vector<model::LayerExpert> together;
  for (const model::Slice& part : cut(config(), slice, 3)) {
    EXPECT_LE(part.replicas.size(), 2u);
    together.insert(together.end(), part.replicas.begin(), part.replicas.end());
  }
  EXPECT_EQ(together, slice.replicas);
}

TEST(Layout, WithCopiesEveryExpertHasOneHome) {
  model::ModelConfig config;
  config.n_experts = 10;
  Layout layout = three_machines();
  for (std::size_t v = 0; v < 5; ++v) layout.virtual_ranks[v].slice.experts = {2 * v, 2 * v + 2};
  EXPECT_TRUE(check_experts(config, layout));
  layout.virtual_ranks[1].slice.experts.end = 3;
  EXPECT_TRUE(check_experts(config, layout)) << "without copies nobody asks";
  layout.virtual_ranks[4].slice.replicas = {{LayerId{0}, ExpertId{1}}};
  EXPECT_EQ(n_replicas(layout), 1u);
  const auto nobody = check_experts(config, layout);
  ASSERT_FALSE(nobody);
  EXPECT_NE(nobody.error().message.find("expert 3 belongs to 0"), std::string::npos);
  layout.virtual_ranks[1].slice.experts.end = 5;
  EXPECT_FALSE(check_experts(config, layout)) << "expert 4 has two";
  layout.virtual_ranks[1].slice.experts.end = 4;
  EXPECT_TRUE(check_experts(config, layout));
  Layout all = layout;
  all.virtual_ranks[0].slice.experts = model::kAll;
  EXPECT_FALSE(check_experts(config, all));
  Layout stage = layout;
  stage.virtual_ranks[0].slice.layers = {0, 1};
  EXPECT_FALSE(check_experts(config, stage));
  layout.virtual_ranks.push_back(layout.virtual_ranks[4]);
  layout.virtual_ranks[4].slice.experts = layout.virtual_ranks[5].slice.experts = {10, 10};
  layout.virtual_ranks[3].slice.experts.end = 10;
  EXPECT_FALSE(check_experts(config, layout)) << "two that compute the same copies";
}

// ---- As a message -------------------------------------------------------------------------------

TEST(Layout, GoesThroughAMessageUnchanged) {
  Layout layout = three_machines();
  layout.virtual_ranks[3].slice.experts = {1, 2};
  layout.virtual_ranks[3].slice.replicas = {{LayerId{0}, ExpertId{7}},
                                            {LayerId{60}, ExpertId{383}}};
  Result<Layout> back = from_message(to_message(layout));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->virtual_ranks, layout.virtual_ranks);
  EXPECT_EQ(back->id, layout.id);
  EXPECT_EQ(back->pages, layout.pages);
  EXPECT_TRUE(back->homes.empty()) << "only the head knows them";
}

TEST(Layout, MessagesThatCannotBeAreRefused) {
  const wire::pb::Layout good = to_message(three_machines());
  const auto refused = [&](const std::function<void(wire::pb::Layout&)>& damage) {
    wire::pb::Layout bad = good;
    damage(bad);
    return !from_message(bad);
  };
  EXPECT_TRUE(refused([](auto& m) { m.clear_virtual_ranks(); }));
  EXPECT_TRUE(refused([](auto& m) { m.set_strategy(99); }));
  EXPECT_TRUE(refused([](auto& m) { m.set_weights(99); }));
  EXPECT_TRUE(refused([](auto& m) { m.set_rows_max(0); }));
  EXPECT_TRUE(refused([](auto& m) { m.mutable_virtual_ranks(0)->set_group(1); }));
  EXPECT_TRUE(refused([](auto& m) { m.mutable_virtual_ranks(2)->set_group(0); }));
  EXPECT_TRUE(refused([](auto& m) { m.mutable_virtual_ranks(3)->set_group(3); }));
  EXPECT_TRUE(refused([](auto& m) {
    m.mutable_virtual_ranks(0)->mutable_slice()->set_vocab_begin(7);
  })) << "an end before its begin";
}

}  // namespace
}  // namespace conclave::cluster
