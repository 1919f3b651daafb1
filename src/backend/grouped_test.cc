// Grouped-query attention on the CPU: what slices, batches and restarts rest on.
#include <gtest/gtest.h>

#include "backend/test_model.h"
#include "model/test_checkpoint.h"

namespace conclave::backend {
namespace {

using Kind = model::TestCheckpoint::Kind;

class Grouped : public model::CheckpointDirTest, public testing::WithParamInterface<Kind> {
 protected:
  void SetUp() override {
    CheckpointDirTest::SetUp();
    auto source = open(model::TestCheckpoint(GetParam()));
    ASSERT_TRUE(source) << source.error().message;
    source_.emplace(std::move(*source));
  }
  Node node(const CpuOptions& options, const std::vector<model::Slice>& slices) const {
    return make_node(options, slices, nullptr, *source_);
  }
  Node whole(const CpuOptions& options) const {
    return node(options, {model::Slice::whole(source_->config())});
  }
  // One, two and one heads: the second slice's belong to different KV heads.
  std::vector<model::Slice> three_slices() const {
    const model::ModelConfig& config = source_->config();
    const std::size_t dense = config.intermediate_size;
    const std::size_t shared = config.shared_intermediate_size();
    std::vector<model::Slice> slices(3);
    const std::size_t expert = config.moe_intermediate_size;
    slices[0] = {{0, 1}, {0, 0}, {0, 0}, {0, 32}, {0, 32}, true};
    slices[1] = {{1, 3}, {0, 32}, {0, shared}, {32, dense}, {32, 32}, false};
    slices[2] = {{3, 4}, {32, expert}, {shared, shared}, {dense, dense}, {32, 64}, false};
    return slices;
  }
  static std::vector<TokenId> prompt(std::size_t n) { return some_tokens(n, 3, 64); }

  std::optional<model::ModelSource> source_;
};

constexpr std::size_t kPrompt = 150;  // over three pages
const std::vector<PageIndex> kPages = {2, 0, 5};

// Each of the prompt's rows in steps of `chunk`; the logits of all.
std::vector<float> run_in_chunks(const Node& node, const std::vector<TokenId>& tokens,
                                 std::size_t chunk, bool decode = false) {
  std::vector<float> logits;
  for (std::size_t at = 0; at < tokens.size(); at += chunk) {
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(at);
    const auto end =
        tokens.begin() + static_cast<std::ptrdiff_t>(std::min(at + chunk, tokens.size()));
    const std::vector<float> part = run(node, {{{begin, end}, at, kPages, decode}});
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

TEST_P(Grouped, ChunksAndBatchesNeverChangeABit) {
  for (const CpuOptions& options : {CpuOptions{.exact = true}, CpuOptions{.threads = 3},
                                    CpuOptions{.weights = model::WeightsMode::kInt8}}) {
    const std::vector<TokenId> tokens = prompt(kPrompt);
    const std::vector<float> at_once = run_in_chunks(whole(options), tokens, kPrompt);
    EXPECT_EQ(run_in_chunks(whole(options), tokens, 7), at_once);
    EXPECT_EQ(run_in_chunks(whole(options), tokens, 1, true), at_once);
    const Node shared = whole(options);
    const std::vector<float> both = run(
        shared, {{some_tokens(70, 9, 64), 0, {1, 3}}, {tokens, 0, kPages}, {prompt(1), 0, {7}}});
    const std::size_t vocab = source_->config().vocab_size;
    EXPECT_TRUE(std::equal(at_once.begin(), at_once.end(),
                           both.begin() + static_cast<std::ptrdiff_t>(70 * vocab)));
  }
}

TEST_P(Grouped, UnevenSlicesAddUpToTheWholeModel) {
  const std::vector<model::Slice> s = three_slices();
  const std::vector<Part> parts = {{prompt(kPrompt), 0, kPages}, {some_tokens(5, 4, 64), 0, {7}}};
  const CpuOptions options{.exact = true};
  const std::vector<float> expected = run(whole(options), parts);
  std::vector<Node> apart;
  for (const model::Slice& slice : s) apart.push_back(node(options, {slice}));
  EXPECT_LT(relative_error(run(apart, parts), expected), 1e-5);
}

TEST_P(Grouped, WhoComputesSlicesNeverChangesABit) {
  const std::vector<model::Slice> s = three_slices();
  const std::vector<Part> parts = {{prompt(kPrompt), 0, kPages}};
  for (const CpuOptions& options :
       {CpuOptions{.exact = true}, CpuOptions{}, CpuOptions{.weights = model::WeightsMode::kInt8},
        CpuOptions{.weights = model::WeightsMode::kInt4}}) {
    std::vector<Node> apart;
    for (const model::Slice& slice : s) apart.push_back(node(options, {slice}));
    EXPECT_EQ(run(node(options, s), parts), run(apart, parts));
  }
}

// A rank that takes over heads in the middle of an answer has cached their keys all along.
TEST_P(Grouped, AHeadIsTakenOverWithItsPast) {
  const std::vector<model::Slice> s = three_slices();
  const CpuOptions options{};
  const std::vector<TokenId> tokens = prompt(100);
  const Part first = {tokens, 0, kPages};
  const Part next = {some_tokens(1, 5, 64), 100, kPages, true};

  std::vector<Node> apart;
  apart.push_back(node(options, {s[0]}));
  apart.push_back(node(options, {s[1]}));
  apart.push_back(node(options, {s[2]}));
  (void)run(apart, {first});
  const std::vector<float> expected = run(apart, {next});

  std::vector<Node> survivors;
  survivors.push_back(node(options, {s[0], s[1]}));
  survivors.push_back(node(options, {s[2]}));
  survivors.front().backend->activate(std::vector<std::size_t>{0});
  std::vector<Node> lost;
  lost.push_back(node(options, {s[1]}));
  std::vector<Backend*> three = {survivors[0].backend.get(), lost[0].backend.get(),
                                 survivors[1].backend.get()};
  (void)run(std::span<Backend* const>(three), {first});
  survivors.front().backend->activate(std::vector<std::size_t>{0, 1});
  EXPECT_EQ(run(survivors, {next}), expected);
}

INSTANTIATE_TEST_SUITE_P(Families, Grouped, testing::Values(Kind::kGrouped, Kind::kGptOss),
                         [](const testing::TestParamInfo<Kind>& kind) {
                           return std::string(kind.param == Kind::kGrouped ? "Glm" : "GptOss");
                         });

}  // namespace
}  // namespace conclave::backend
