// The CPU backend on Ember: the equalities that docs/design.md 3 and 7 promise.
#include "backend/backend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace conclave::backend {
namespace {

const model::ModelSource& ember() {
  static const model::ModelSource source = [] {
    auto opened = model::ModelSource::open("models/ember");
    EXPECT_TRUE(opened) << opened.error().message;
    return std::move(*opened);
  }();
  return source;
}

// A backend with its own arena.
struct Node {
  WeightArena arena;
  std::unique_ptr<Backend> backend;
};

Node make_node(CpuOptions options, const model::Slice& slice) {
  options.limits = {.rows_max = 512, .pages = 16};
  auto arena = WeightArena::create_private(cpu_weight_bytes(ember(), slice, options));
  EXPECT_TRUE(arena);
  Node node{std::move(*arena), nullptr};
  auto backend = make_cpu_backend(ember(), slice, options, node.arena, nullptr);
  EXPECT_TRUE(backend) << backend.error().message;
  node.backend = std::move(*backend);
  return node;
}

Node make_node(const CpuOptions& options) {
  return make_node(options, model::Slice::whole(ember().config()));
}

std::vector<TokenId> some_tokens(std::size_t n, std::uint32_t seed) {
  std::vector<TokenId> tokens(n);
  for (std::size_t i = 0; i < n; ++i) {
    tokens[i] = TokenId{static_cast<std::uint32_t>((i * 2654435761u + seed * 40503u) % 7000)};
  }
  return tokens;
}

// One sequence's rows in a step.
struct Part {
  std::vector<TokenId> tokens;
  std::size_t position = 0;
  std::vector<PageIndex> pages;
  bool decode = false;
};

// Starts the step on the first rank, and on the others with the rows that it sends them.
void start(std::vector<Node>& ranks, const Step& step) {
  ranks[0].backend->embed(step);
  const std::span<const float> rows = ranks[0].backend->residual();
  const std::vector<float> sent(rows.begin(), rows.end());
  for (std::size_t rank = 1; rank < ranks.size(); ++rank) ranks[rank].backend->begin(step, sent);
}

// Runs one step over the ranks' backends, adding their partial sums in rank order as the exchange
// does; returns the logits of all rows, the ranks' vocabulary shares side by side.
std::vector<float> run(std::vector<Node>& ranks, const std::vector<Part>& parts) {
  std::vector<TokenId> tokens;
  std::vector<SequenceRows> sequences;
  for (const Part& part : parts) {
    sequences.push_back(
        {tokens.size(), part.tokens.size(), part.position, part.pages, part.decode});
    tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
  }
  std::vector<std::uint32_t> rows(tokens.size());
  std::iota(rows.begin(), rows.end(), 0u);
  const Step step{tokens, sequences, rows};
  const auto exchange = [&ranks] {
    std::vector<float> sum(ranks[0].backend->partial().size(), 0.0f);
    for (Node& rank : ranks) {
      const std::span<float> partial = rank.backend->partial();
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += partial[i];
    }
    for (Node& rank : ranks) {
      std::copy(sum.begin(), sum.end(), rank.backend->partial().begin());
      rank.backend->add_partial();
    }
  };
  start(ranks, step);
  for (std::uint16_t l = 0; l < ember().config().n_layers; ++l) {
    for (Node& rank : ranks) rank.backend->attention(LayerId{l});
    exchange();
    for (Node& rank : ranks) (void)rank.backend->route(LayerId{l}, {});
    for (Node& rank : ranks) rank.backend->feed_forward(LayerId{l});
    exchange();
  }
  std::vector<std::span<const float>> heads;
  for (Node& rank : ranks) heads.push_back(rank.backend->head());
  std::vector<float> logits;
  for (std::size_t row = 0; row < rows.size(); ++row) {
    for (const std::span<const float> head : heads) {
      const std::size_t vocab = head.size() / rows.size();
      const std::span<const float> part = head.subspan(row * vocab, vocab);
      logits.insert(logits.end(), part.begin(), part.end());
    }
  }
  return logits;
}

std::vector<float> run_one(const CpuOptions& options, const std::vector<Part>& parts) {
  std::vector<Node> ranks;
  ranks.push_back(make_node(options));
  return run(ranks, parts);
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - b[i], 2);
    size += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(error / size);
}

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
    std::vector<Node> ranks;
    ranks.push_back(make_node(options));
    std::vector<float> logits;
    for (std::size_t begin = 0; begin < tokens.size(); begin += chunk) {
      const std::size_t end = std::min(begin + chunk, tokens.size());
      const std::vector<TokenId> part(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                      tokens.begin() + static_cast<std::ptrdiff_t>(end));
      const std::vector<float> rows = run(ranks, {{part, begin, pages}});
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
  std::vector<Node> ranks;
  ranks.push_back(make_node({}));
  (void)run(ranks, {{prompt, 0, pages}});
  std::vector<float> one_by_one;
  for (std::size_t i = 0; i < answer.size(); ++i) {
    const std::vector<float> row = run(ranks, {{{answer[i]}, 30 + i, pages, true}});
    one_by_one.insert(one_by_one.end(), row.begin(), row.end());
  }
  std::vector<Node> restarted;
  restarted.push_back(make_node({}));
  (void)run(restarted, {{prompt, 0, pages}});
  EXPECT_EQ(one_by_one, run(restarted, {{answer, 30, pages, true}}));
}

TEST(CpuBackend, UnevenSlicesAddUpToTheWholeModel) {
  const std::vector<Part> parts = {{some_tokens(150, 6), 0, {0, 1, 2}}};
  const model::ModelConfig& config = ember().config();
  model::Slice first = model::Slice::whole(config);
  first.heads = {0, 3};
  first.expert_columns = {0, 32};
  first.shared_columns = {0, 96};
  first.dense_columns = {0, 640};
  first.vocab = {0, 4096};
  model::Slice second = model::Slice::whole(config);
  second.heads = {3, 8};
  second.expert_columns = {32, 128};
  second.shared_columns = {96, 128};
  second.dense_columns = {640, 1024};
  second.vocab = {4096, 8192};
  model::Slice nothing = model::Slice::whole(config);
  nothing.heads = nothing.expert_columns = nothing.shared_columns = nothing.dense_columns =
      nothing.vocab = {0, 0};
  second.embedding = nothing.embedding = false;
  const CpuOptions options{.exact = true};
  std::vector<Node> ranks;
  ranks.push_back(make_node(options, first));
  ranks.push_back(make_node(options, second));
  ranks.push_back(make_node(options, nothing));
  EXPECT_LT(relative_error(run(ranks, parts), run_one(options, parts)), 1e-5);
}

// A rank that holds all but the embedding, behind one that holds nothing else: the sums gain only
// zeros, so the logits keep their bits.
TEST(CpuBackend, AStepBegunFromSentRowsKeepsTheBits) {
  const std::vector<Part> parts = {{some_tokens(20, 10), 0, {2}}, {some_tokens(3, 11), 0, {6}}};
  const CpuOptions options{.exact = true};
  model::Slice holder = model::Slice::whole(ember().config());
  model::Slice rest = holder;
  holder.heads = holder.expert_columns = holder.shared_columns = holder.dense_columns =
      holder.vocab = {0, 0};
  rest.embedding = false;
  std::vector<Node> ranks;
  ranks.push_back(make_node(options, holder));
  ranks.push_back(make_node(options, rest));
  EXPECT_EQ(run(ranks, parts), run_one(options, parts));
}

TEST(CpuBackend, ResidualIsTheEmbeddingAndThenWhatWasAdded) {
  Node node = make_node({});
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
  EXPECT_TRUE(std::ranges::equal(node.backend->residual(), expected));
  node.backend->attention(LayerId{0});
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += node.backend->partial()[i];
  node.backend->add_partial();
  EXPECT_TRUE(std::ranges::equal(node.backend->residual(), expected));
}

TEST(CpuBackend, Int8WeightsStayClose) {
  const std::vector<Part> parts = {{some_tokens(60, 7), 0, {0}}};
  const std::vector<float> exact = run_one({.exact = true}, parts);
  EXPECT_LT(relative_error(run_one({}, parts), exact), 0.05);
  EXPECT_LT(relative_error(run_one({.weights = model::WeightsMode::kInt8}, parts), exact), 0.08);
}

TEST(CpuBackend, AttachesToFilledWeightsWithoutLoading) {
  const model::Slice slice = model::Slice::whole(ember().config());
  CpuOptions options;
  options.limits.pages = 4;
  auto arena = WeightArena::create_shared(cpu_weight_bytes(ember(), slice, options));
  ASSERT_TRUE(arena);
  EXPECT_EQ(arena->filled_key(), 0u);
  std::size_t calls = 0;
  const LoadProgress count = [&calls](std::uint64_t done, std::uint64_t total) {
    EXPECT_LE(done, total);
    ++calls;
  };
  ASSERT_TRUE(make_cpu_backend(ember(), slice, options, *arena, count));
  EXPECT_GT(calls, 0u);
  EXPECT_NE(arena->filled_key(), 0u);
  calls = 0;
  ASSERT_TRUE(make_cpu_backend(ember(), slice, options, *arena, count));
  EXPECT_EQ(calls, 0u);
  options.weights = model::WeightsMode::kInt8;  // other contents: must load again
  auto larger = WeightArena::create_shared(cpu_weight_bytes(ember(), slice, options));
  ASSERT_TRUE(larger);
  larger->set_filled_key(arena->filled_key());
  ASSERT_TRUE(make_cpu_backend(ember(), slice, options, *larger, count));
  EXPECT_GT(calls, 0u);
}

TEST(CpuBackend, AnArenaTooSmallForTheModelIsAnError) {
  const model::Slice slice = model::Slice::whole(ember().config());
  CpuOptions options;
  options.limits.pages = 1;
  auto arena = WeightArena::create_private(cpu_weight_bytes(ember(), slice, options) - 4096);
  ASSERT_TRUE(arena);
  const auto backend = make_cpu_backend(ember(), slice, options, *arena, nullptr);
  ASSERT_FALSE(backend);
  EXPECT_NE(backend.error().message.find("has changed"), std::string::npos);
}

TEST(CpuBackend, UnknownIsaIsAnError) {
  const model::Slice slice = model::Slice::whole(ember().config());
  CpuOptions options{.isa = "z80"};
  options.limits.pages = 1;
  auto arena = WeightArena::create_private(cpu_weight_bytes(ember(), slice, options));
  ASSERT_TRUE(arena);
  const auto backend = make_cpu_backend(ember(), slice, options, *arena, nullptr);
  ASSERT_FALSE(backend);
  EXPECT_NE(backend.error().message.find("z80"), std::string::npos);
}

TEST(Probe, ReadsMemory) {
  EXPECT_GT(probe_read_bandwidth(1, 1, std::size_t{64} << 20), 1e8);
  EXPECT_GT(probe_read_bandwidth(2, 4, std::size_t{64} << 20), 1e8);
}

}  // namespace
}  // namespace conclave::backend
