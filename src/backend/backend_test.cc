// The CPU backend on Ember: the equalities that docs/design.md 3 and 7 promise.
#include "backend/backend.h"

#include <gtest/gtest.h>

#include "backend/test_model.h"

namespace conclave::backend {
namespace {

TEST(CpuBackend, ThreadsNeverChangeABit) {
  const std::vector<Part> parts = {{some_tokens(40, 1), 0, {3}}};
  const std::vector<float> one = run_one({.threads = 1}, parts);
  EXPECT_EQ(one, run_one({.threads = 2}, parts));
  EXPECT_EQ(one, run_one({.threads = 5}, parts));
}

TEST(CpuBackend, EveryInstructionSetGivesTheSameLogits) {
  const std::vector<Part> parts = {{some_tokens(5, 2), 0, {0}}};
  for (const bool exact : {false, true}) {
    const auto with = [&](kernels::Isa isa) {
      return run_one({.isa = std::string(name(isa)), .exact = exact}, parts);
    };
    const std::vector<float> expected = with(kernels::Isa::kScalar);
    for (const kernels::Isa isa : kernels::available_isas()) {
      EXPECT_EQ(expected, with(isa)) << name(isa) << " exact " << exact;
    }
  }
}

TEST(CpuBackend, BatchMatesNeverChangeABit) {
  for (const model::WeightsMode mode : {model::WeightsMode::kNative, model::WeightsMode::kInt8}) {
    const CpuOptions options{.weights = mode};
    const Part mine{some_tokens(20, 3), 0, {5}};
    const Part other{some_tokens(150, 4), 0, {1, 2, 7}};  // long enough for the naive form
    const std::vector<float> alone = run_one(options, {mine});
    const std::vector<float> together = run_one(options, {other, mine});
    const std::size_t begin = together.size() - alone.size();
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(),
                           together.begin() + static_cast<std::ptrdiff_t>(begin)));
  }
}

// 300 tokens: at once in the naive form, in small chunks and one by one in the absorbed form.
TEST(CpuBackend, ChunksAndDecodeAgreeWithPrefillAtOnce) {
  const std::vector<TokenId> tokens = some_tokens(300, 5);
  const std::vector<PageIndex> pages = {4, 9, 0, 11, 2};
  const CpuOptions options{.exact = true};
  const std::vector<float> at_once = run_one(options, {{tokens, 0, pages}});
  for (const std::size_t chunk : {1u, 7u, 100u}) {
    const Node node = make_node(options);
    std::vector<float> logits;
    for (std::size_t begin = 0; begin < tokens.size(); begin += chunk) {
      const std::size_t end = std::min(begin + chunk, tokens.size());
      const std::vector<TokenId> part(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                      tokens.begin() + static_cast<std::ptrdiff_t>(end));
      const std::vector<float> rows = run(node, {{part, begin, pages}});
      logits.insert(logits.end(), rows.begin(), rows.end());
    }
    EXPECT_LT(relative_error(logits, at_once), 1e-4) << "chunk " << chunk;
  }
}

// What a restarted request relies on: its answer, replayed many rows at a time, gets the bits that
// it got one row at a time. 150 rows would take the naive form as a prefill chunk.
TEST(CpuBackend, ReplayedRowsGetTheBitsOfDecode) {
  const std::vector<TokenId> prompt = some_tokens(30, 8);
  const std::vector<TokenId> answer = some_tokens(150, 9);
  const std::vector<PageIndex> pages = {1, 0, 3};
  const Node node = make_node({});
  (void)run(node, {{prompt, 0, pages}});
  std::vector<float> one_by_one;
  for (std::size_t i = 0; i < answer.size(); ++i) {
    const std::vector<float> row = run(node, {{{answer[i]}, 30 + i, pages, true}});
    one_by_one.insert(one_by_one.end(), row.begin(), row.end());
  }
  const Node restarted = make_node({});
  (void)run(restarted, {{prompt, 0, pages}});
  EXPECT_EQ(one_by_one, run(restarted, {{answer, 30, pages, true}}));
}

TEST(CpuBackend, HiddenIsTheEmbeddingAndThenWhatWasAdded) {
  const Node node = make_node({});
  const std::vector<TokenId> tokens = some_tokens(2, 12);
  const std::vector<PageIndex> pages = {0};
  const std::vector<SequenceRows> sequences = {{0, 2, 0, pages}};
  node.backend->embed({tokens, sequences, {}});
  const std::size_t hidden = ember().config().hidden_size;
  std::vector<float> expected(2 * hidden);
  const kernels::SourceMatrix embedding = ember().matrix({}, model::Weight::kEmbedding);
  for (std::size_t row = 0; row < 2; ++row) {
    kernels::dequantize_row(embedding, tokens[row].value, 0,
                            std::span(expected).subspan(row * hidden, hidden));
  }
  EXPECT_TRUE(std::ranges::equal(node.backend->hidden(), expected));
  node.backend->attention(LayerId{0});
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += node.backend->partial(0)[i];
  node.backend->add_partial();
  EXPECT_TRUE(std::ranges::equal(node.backend->hidden(), expected));
}

TEST(CpuBackend, Int8WeightsStayClose) {
  const std::vector<Part> parts = {{some_tokens(60, 7), 0, {0}}};
  const std::vector<float> exact = run_one({.exact = true}, parts);
  EXPECT_LT(relative_error(run_one({}, parts), exact), 0.05);
  EXPECT_LT(relative_error(run_one({.weights = model::WeightsMode::kInt8}, parts), exact), 0.08);
}

TEST(CpuBackend, UnknownIsaIsAnErrorBeforeAnythingIsLoaded) {
  CpuOptions options{.isa = "z80"};
  options.limits.pages = 1;
  const auto whole = load_whole_cpu_model(
      ember(), options, [](std::uint64_t, std::uint64_t) { ADD_FAILURE() << "loaded"; });
  ASSERT_FALSE(whole);
  EXPECT_NE(whole.error().message.find("z80"), std::string::npos);
}

TEST(CpuBackend, TheWholeModelInOneCallIsTheOneMadeOfParts) {
  CpuOptions options;
  options.limits = {.rows_max = 512, .pages = 16};
  std::uint64_t last = 0;
  const LoadProgress grows = [&last](std::uint64_t done, std::uint64_t total) {
    EXPECT_GT(done, last);
    EXPECT_LE(done, total);
    last = done;
  };
  const auto whole = load_whole_cpu_model(ember(), options, grows);
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_GT(last, 0u);
  Backend* const rank = whole->backend.get();
  const std::vector<Part> parts = {{some_tokens(9, 13), 0, {1}}};
  EXPECT_EQ(run(std::span(&rank, 1), parts), run_one({}, parts));
}

TEST(Probe, ReadsMemory) {
  EXPECT_GT(probe_read_bandwidth(1, 1, std::size_t{64} << 20), 1e8);
  EXPECT_GT(probe_read_bandwidth(2, 4, std::size_t{64} << 20), 1e8);
}

}  // namespace
}  // namespace conclave::backend
