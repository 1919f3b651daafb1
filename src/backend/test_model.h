// Backends over parts of Ember for the tests, and a step over several of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "backend/backend.h"

namespace conclave::backend {

inline const model::ModelSource& ember() {
  static const model::ModelSource source = [] {
    auto opened = model::ModelSource::open("models/ember");
    EXPECT_TRUE(opened) << opened.error().message;
    return std::move(*opened);
  }();
  return source;
}

inline model::Slice whole_slice() { return model::Slice::whole(ember().config()); }

inline model::Slice no_slice() {
  model::Slice slice;
  slice.embedding = false;
  return slice;
}

// Three unequal virtual ranks that make up Ember: 3, 4, 1 heads; 1, 2, 1 units of expert columns.
inline std::vector<model::Slice> three_slices() {
  std::vector<model::Slice> slices(3);
  slices[0] = {{0, 3}, {0, 32}, {0, 96}, {0, 640}, {0, 4096}, true};
  slices[1] = {{3, 7}, {32, 96}, {96, 96}, {640, 960}, {4096, 8096}, false};
  slices[2] = {{7, 8}, {96, 128}, {96, 128}, {960, 1024}, {8096, 8192}, false};
  return slices;
}

inline SharedMemory memory_of(std::size_t bytes) {
  auto memory = SharedMemory::create_shared(bytes);
  EXPECT_TRUE(memory);
  return std::move(*memory);
}

// A filled arena of a slice.
inline WeightArena slice_arena(const model::Slice& slice, const CpuOptions& options,
                               const model::ModelSource& source = ember()) {
  WeightArena arena = memory_of(cpu_slice_bytes(source, slice, options));
  ThreadPool pool(2);
  LocalPackedSource from(source, pool);
  const auto loaded = load_slice(source, slice, options, from, arena, {});
  EXPECT_TRUE(loaded) << loaded.error().message;
  return arena;
}

inline WeightArena common_arena(bool embedding, const CpuOptions& options,
                                const model::ModelSource& source = ember()) {
  WeightArena arena = memory_of(cpu_common_bytes(source, embedding, options));
  ThreadPool pool(2);
  LocalPackedSource from(source, pool);
  const auto loaded = load_common(source, embedding, options, from, arena, {});
  EXPECT_TRUE(loaded) << loaded.error().message;
  return arena;
}

// A rank: a backend with its own memory.
struct Node {
  WeightArena common;
  std::vector<std::unique_ptr<WeightArena>> arenas;
  SharedMemory kv;
  std::unique_ptr<Backend> backend;
};

inline CpuOptions with_limits(CpuOptions options) {
  options.limits = {.rows_max = 512, .pages = 16};
  return options;
}

// With the embedding if any of the slices has it.
inline Node make_node(CpuOptions options, const std::vector<model::Slice>& slices,
                      std::shared_ptr<const ExpertDivision> division = nullptr,
                      const model::ModelSource& source = ember()) {
  options = with_limits(options);
  const bool embedding = std::ranges::any_of(slices, &model::Slice::embedding);
  Node node{common_arena(embedding, options, source),
            {},
            memory_of(cpu_kv_bytes(source.config(), options.limits, options.exact)),
            nullptr};
  CpuParts parts{node.common, embedding, {}, node.kv, std::move(division)};
  for (const model::Slice& slice : slices) {
    node.arenas.push_back(std::make_unique<WeightArena>(slice_arena(slice, options, source)));
    parts.slices.push_back({slice, *node.arenas.back()});
  }
  auto backend = make_cpu_backend(source, parts, options);
  EXPECT_TRUE(backend) << backend.error().message;
  node.backend = std::move(*backend);
  return node;
}

inline Node make_node(const CpuOptions& options) { return make_node(options, {whole_slice()}); }

inline std::vector<TokenId> some_tokens(std::size_t n, std::uint32_t seed,
                                        std::size_t vocab = 7000) {
  std::vector<TokenId> tokens(n);
  for (std::size_t i = 0; i < n; ++i) {
    tokens[i] =
        TokenId{static_cast<std::uint32_t>((i * 2654435761u + std::size_t{seed} * 40503u) % vocab)};
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

// Adds all active slices' partial sums in rank order to the first rank's hidden rows, and hands
// them to the others, as the exchange does.
inline void exchange(std::span<Backend* const> ranks) {
  const std::span<float> first = ranks[0]->hidden();
  std::vector<float> sum(first.begin(), first.end());
  for (Backend* rank : ranks) {
    for (std::size_t s = 0; s < rank->active().size(); ++s) {
      const std::span<const float> partial = rank->partial(s);
      ASSERT_EQ(partial.size(), sum.size());
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += partial[i];
    }
  }
  for (Backend* rank : ranks) std::copy(sum.begin(), sum.end(), rank->hidden().begin());
}

// The active slices' logits of all rows side by side.
inline std::vector<float> logits_of(std::span<Backend* const> ranks, std::size_t n_rows) {
  std::vector<float> logits;
  for (std::size_t row = 0; row < n_rows; ++row) {
    for (Backend* rank : ranks) {
      for (std::size_t s = 0; s < rank->active().size(); ++s) {
        const std::span<const float> head = rank->logits(s);
        const std::size_t vocab = head.size() / n_rows;
        const std::span<const float> part = head.subspan(row * vocab, vocab);
        logits.insert(logits.end(), part.begin(), part.end());
      }
    }
  }
  return logits;
}

// Runs one step over the ranks' backends; the first holds the embedding and sends the others the
// rows to begin with. Returns the logits of all rows.
inline std::vector<float> run(std::span<Backend* const> ranks, const std::vector<Part>& parts) {
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

  ranks[0]->embed(step);
  const std::vector<float> sent(ranks[0]->hidden().begin(), ranks[0]->hidden().end());
  for (Backend* rank : ranks.subspan(1)) rank->begin(step, sent);
  for (std::size_t l = 0; l < ranks[0]->config().n_layers; ++l) {
    const LayerId layer{static_cast<std::uint16_t>(l)};
    for (Backend* rank : ranks) rank->attention(layer);
    exchange(ranks);
    for (Backend* rank : ranks) (void)rank->route(layer, {});
    for (Backend* rank : ranks) rank->feed_forward(layer);
    exchange(ranks);
  }
  for (Backend* rank : ranks) rank->head();
  return logits_of(ranks, rows.size());
}

inline std::vector<float> run(const std::vector<Node>& nodes, const std::vector<Part>& parts) {
  std::vector<Backend*> ranks;
  for (const Node& node : nodes) ranks.push_back(node.backend.get());
  return run(ranks, parts);
}

inline std::vector<float> run(const Node& node, const std::vector<Part>& parts) {
  Backend* const rank = node.backend.get();
  return run(std::span(&rank, 1), parts);
}

inline std::vector<float> run_one(const CpuOptions& options, const std::vector<Part>& parts) {
  return run(make_node(options), parts);
}

inline double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - b[i], 2);
    size += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(error / size);
}

}  // namespace conclave::backend
