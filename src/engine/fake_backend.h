// A Backend for tests of one rank: a "model" whose logits are a hash of the tokens that a row
// attends to. It reads them through the pages of its step, as attention does, and checks that
//   - operations come in the order of a step
//   - rows that a step begins from are those of its tokens
//   - every position is written before it is read and read as its own sequence wrote it (so no page
//     serves two sequences) and written once.
// With `chunks_matter` the hash also covers how the positions were cut into chunks, as the low bits
// of a real model do.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/rng.h"

namespace conclave::engine {

struct FakeOptions {
  backend::Limits limits{.rows_max = 512, .pages = 64};
  std::size_t max_positions = 4096;
  bool chunks_matter = false;
};

class FakeBackend : public backend::Backend {
 public:
  static constexpr std::size_t kVocab = 64;
  static constexpr std::size_t kLayers = 3;  // one dense, two MoE
  static constexpr std::size_t kExperts = 8;
  static constexpr std::size_t kExpertsPerToken = 2;

  explicit FakeBackend(const FakeOptions& options = {})
      : options_(options), slots_(options.limits.pages * backend::kPageTokens) {
    config_.vocab_size = kVocab;
    config_.hidden_size = 4;
    config_.n_layers = kLayers;
    config_.n_dense_layers = 1;
    config_.n_experts = kExperts;
    config_.experts_per_token = kExpertsPerToken;
    config_.max_positions = options.max_positions;
    slice_ = model::Slice::whole(config_);
  }

  const model::ModelConfig& config() const override { return config_; }
  const backend::Limits& limits() const override { return options_.limits; }
  std::string describe() const override { return "fake"; }

  void begin(const backend::Step& step, std::span<const float> residual) override {
    ASSERT_EQ(residual.size(), step.tokens.size() * config_.hidden_size);
    for (std::size_t row = 0; row < step.tokens.size(); ++row) {
      ASSERT_EQ(residual[row * config_.hidden_size], embedding_of(step.tokens[row]));
    }
    embed(step);
  }

  // Of a step that has just begun: the layers of this model leave no rows to look at.
  std::span<float> hidden() override {
    EXPECT_EQ(next_, kAttention);
    EXPECT_EQ(layer_, 0u);
    rows_.assign(step_.tokens.size() * config_.hidden_size, 0.0f);
    for (std::size_t row = 0; row < step_.tokens.size(); ++row) {
      rows_[row * config_.hidden_size] = embedding_of(step_.tokens[row]);
    }
    return rows_;
  }

  void embed(const backend::Step& step) override {
    ASSERT_EQ(next_, kEmbed);
    step_ = step;
    ++n_steps;
    rows_of_steps.push_back(step.tokens.size());
    ASSERT_LE(step.tokens.size(), options_.limits.rows_max);
    hidden_.assign(step.tokens.size(), 0);
    std::size_t row = 0;
    for (const backend::SequenceRows& rows : step.sequences) {
      ASSERT_EQ(rows.first_row, row);
      ASSERT_GT(rows.n_rows, 0u);
      row += rows.n_rows;
      chunks.push_back({rows.position, rows.n_rows});
    }
    ASSERT_EQ(row, step.tokens.size());
    expect(kAttention, 0);
  }

  void attention(LayerId layer) override {
    ASSERT_EQ(next_, kAttention);
    ASSERT_EQ(layer.value, layer_);
    if (layer.value == 0) {
      for (const backend::SequenceRows& rows : step_.sequences) attend(rows);
    }
    expect(kAddAttention, layer_);
  }

  backend::Routing route(LayerId layer, std::span<const ExpertId> forced) override {
    EXPECT_EQ(next_, kFeedForward);
    EXPECT_TRUE(config_.is_moe(layer));
    experts_.clear();
    for (std::size_t row = 0; row < hidden_.size(); ++row) {
      const std::uint64_t first = hash_combine(hidden_[row], layer.value) % (kExperts - 1);
      experts_.push_back(ExpertId{static_cast<std::uint16_t>(first)});
      experts_.push_back(ExpertId{static_cast<std::uint16_t>(kExperts - 1)});
    }
    if (!forced.empty()) {
      EXPECT_EQ(forced.size(), experts_.size());
      experts_.assign(forced.begin(), forced.end());
    }
    weights_.assign(experts_.size(), 0.5f);
    return {experts_, weights_};
  }

  void set_routing(LayerId, const backend::Routing& routing) override {
    experts_.assign(routing.experts.begin(), routing.experts.end());
    weights_.assign(routing.weights.begin(), routing.weights.end());
  }

  void feed_forward(LayerId layer) override {
    ASSERT_EQ(next_, kFeedForward);
    ASSERT_EQ(layer.value, layer_);
    if (config_.is_moe(layer)) {
      for (std::size_t i = 0; i < experts_.size(); ++i) {
        std::uint64_t& hidden = hidden_[i / kExpertsPerToken];
        hidden = hash_combine(hidden, experts_[i].value);
      }
    }
    expect(kAddFeedForward, layer_);
  }

  std::span<const float> partial(std::size_t) override { return {}; }

  void add_partial() override {
    if (next_ == kAddAttention) return expect(kFeedForward, layer_);
    ASSERT_EQ(next_, kAddFeedForward);
    if (layer_ + 1 == kLayers) return expect(kHead, 0);
    expect(kAttention, layer_ + 1);
  }

  void head() override {
    ASSERT_EQ(next_, kHead);
    logits_.clear();
    for (const std::uint32_t row : step_.head_rows) {
      SplitMix random(hidden_[row]);
      for (std::size_t id = 0; id < kVocab; ++id) {
        logits_.push_back(static_cast<float>(6.0 * random.uniform() - 3.0));
      }
      if (nan_token && step_.tokens[row] == *nan_token) {
        logits_[logits_.size() - 5] = std::numeric_limits<float>::quiet_NaN();
      }
    }
    expect(kEmbed, 0);
  }
  std::span<const float> logits(std::size_t) override { return logits_; }

  std::span<const model::Slice> slices() const override { return {&slice_, 1}; }
  void activate(std::span<const std::size_t> slices) override { ASSERT_EQ(slices.size(), 1u); }
  std::span<const std::size_t> active() const override { return {&active_, 1}; }

  // What the test may look at.
  struct Chunk {
    std::size_t position;
    std::size_t n_rows;
  };
  std::vector<Chunk> chunks;  // of all steps
  std::vector<std::size_t> rows_of_steps;
  std::size_t n_steps = 0;
  std::optional<TokenId> nan_token;  // rows that feed this token give a NaN

 private:
  enum Operation { kEmbed, kAttention, kAddAttention, kFeedForward, kAddFeedForward, kHead };
  struct Slot {
    std::uint64_t owner = 0;  // which sequence wrote it, 0: nobody
    std::uint64_t kv = 0;
  };

  static float embedding_of(TokenId id) { return static_cast<float>(id.value); }

  void expect(Operation operation, std::size_t layer) {
    next_ = operation;
    layer_ = layer;
  }

  Slot& slot(const backend::SequenceRows& rows, std::size_t position) {
    const backend::PageIndex page = rows.pages[position / backend::kPageTokens];
    return slots_.at(page * backend::kPageTokens + position % backend::kPageTokens);
  }

  void attend(const backend::SequenceRows& rows) {
    const std::size_t end = rows.position + rows.n_rows;
    ASSERT_EQ(rows.pages.size(), (end + backend::kPageTokens - 1) / backend::kPageTokens);
    const std::uint64_t owner = rows.position == 0 ? ++n_sequences_ : slot(rows, 0).owner;
    for (std::size_t position = rows.position; position < end; ++position) {
      const std::size_t row = rows.first_row + position - rows.position;
      Slot& written = slot(rows, position);
      ASSERT_NE(written.owner, owner) << "position " << position << " written twice";
      const std::uint64_t form = !options_.chunks_matter ? 0 : rows.decode ? 1 : rows.n_rows;
      written = {owner, hash_combine(step_.tokens[row].value, form)};
    }
    std::uint64_t history = 0;
    for (std::size_t position = 0; position < end; ++position) {
      const Slot& read = slot(rows, position);
      ASSERT_EQ(read.owner, owner) << "position " << position << " is another sequence's";
      history = hash_combine(history, read.kv);
      if (position >= rows.position) {
        hidden_[rows.first_row + position - rows.position] = history;
      }
    }
  }

  FakeOptions options_;
  model::ModelConfig config_;
  model::Slice slice_;
  std::size_t active_ = 0;
  std::vector<Slot> slots_;
  std::uint64_t n_sequences_ = 0;
  Operation next_ = kEmbed;
  std::size_t layer_ = 0;
  backend::Step step_;
  std::vector<std::uint64_t> hidden_;
  std::vector<float> rows_;
  std::vector<ExpertId> experts_;
  std::vector<float> weights_;
  std::vector<float> logits_;
};

}  // namespace conclave::engine
