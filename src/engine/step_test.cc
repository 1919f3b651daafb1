#include "engine/step.h"

#include <gtest/gtest.h>

#include <array>

#include "engine/fake_backend.h"

namespace conclave::engine {
namespace {

// The fake backend checks the order of operations.
TEST(Step, RunsAllLayersAndGivesTheWantedLogits) {
  FakeBackend backend;
  const std::array<TokenId, 3> tokens{TokenId{5}, TokenId{6}, TokenId{7}};
  const std::array<backend::PageIndex, 1> pages{2};
  const backend::SequenceRows rows{.first_row = 0, .n_rows = 3, .position = 0, .pages = pages};
  const std::array<std::uint32_t, 2> head_rows{0, 2};

  Ranks alone;
  const auto logits =
      run_step(backend, alone, {.tokens = tokens, .sequences = {&rows, 1}, .head_rows = head_rows});
  ASSERT_TRUE(logits);
  EXPECT_EQ(logits->size(), 2 * FakeBackend::kVocab);
  EXPECT_NE((*logits)[0], (*logits)[FakeBackend::kVocab]);
}

TEST(Step, HooksSeeEachMoeLayerOnce) {
  FakeBackend backend;
  const std::array<TokenId, 1> tokens{TokenId{5}};
  const std::array<backend::PageIndex, 1> pages{0};
  const backend::SequenceRows rows{.first_row = 0, .n_rows = 1, .position = 0, .pages = pages};
  const std::array<ExpertId, 2> forced{ExpertId{3}, ExpertId{4}};

  std::vector<std::size_t> layers;
  StepHooks hooks;
  hooks.forced = [&](std::size_t moe_layer) {
    return moe_layer == 1 ? std::span<const ExpertId>(forced) : std::span<const ExpertId>();
  };
  hooks.chosen = [&](std::size_t moe_layer, const backend::Routing& routing) {
    layers.push_back(moe_layer);
    ASSERT_EQ(routing.experts.size(), 2u);
    EXPECT_EQ(routing.experts[1].value, moe_layer == 1 ? 4 : 7);
  };
  Ranks alone;
  ASSERT_TRUE(run_step(backend, alone, {.tokens = tokens, .sequences = {&rows, 1}, .head_rows = {}},
                       hooks));
  EXPECT_EQ(layers, (std::vector<std::size_t>{0, 1}));
}

TEST(Step, AdvancesWithEveryOperation) {
  FakeBackend backend;
  const std::array<TokenId, 1> tokens{TokenId{5}};
  const std::array<backend::PageIndex, 1> pages{0};
  const backend::SequenceRows rows{.first_row = 0, .n_rows = 1, .position = 0, .pages = pages};
  std::size_t n_advanced = 0;
  StepHooks hooks;
  hooks.advanced = [&] { ++n_advanced; };
  Ranks alone;
  ASSERT_TRUE(run_step(backend, alone, {.tokens = tokens, .sequences = {&rows, 1}, .head_rows = {}},
                       hooks));
  const model::ModelConfig& config = backend.config();
  // Embedding and head; attention and feed-forward of each layer; the routers.
  EXPECT_EQ(n_advanced, 2 + 2 * config.n_layers + config.n_moe_layers());
}

}  // namespace
}  // namespace conclave::engine
