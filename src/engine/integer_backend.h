// A Backend for tests of several ranks: a toy model whose hidden state are small integers. Sums of
// them are exact in float32 in any order, so every division of the model must give the same tokens.
//
// Each head, column and vocabulary row adds numbers hashed from its index and the row's hidden
// state, so slices really differ. Attention hashes the KV of all positions through the step's
// pages: a KV row that is missing, stale or another sequence's changes the answer. Every rank
// writes the KV of all rows, as with MLA.
//
// With `rounding` the numbers are no integers: then sums in another order have other low bits, and
// those change everything that comes after.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/check.h"
#include "base/rng.h"

namespace conclave::engine {

struct IntegerOptions {
  std::uint64_t seed = 1;
  backend::Limits limits{.rows_max = 512, .pages = 64};
  std::size_t n_layers = 3;  // the first is dense
  std::size_t columns = 64;  // of an expert, of the shared experts and of a dense layer
  std::size_t max_positions = 4096;
  bool rounding = false;
  // KV memory [integer_kv_size()], zeros at first, that outlives the backend; empty: its own.
  std::span<std::uint64_t> kv = {};
};

inline constexpr std::size_t kIntegerWidth = 8;
inline constexpr std::size_t kIntegerVocab = 64;
inline constexpr std::size_t kIntegerHeads = 8;

inline model::ModelConfig integer_config(const IntegerOptions& options) {
  model::ModelConfig config;
  config.vocab_size = kIntegerVocab;
  config.hidden_size = kIntegerWidth;
  config.n_layers = options.n_layers;
  config.n_dense_layers = 1;
  config.intermediate_size = options.columns;
  config.moe_intermediate_size = options.columns;
  config.n_experts = 8;
  config.n_shared_experts = 1;
  config.experts_per_token = 2;
  config.n_heads = kIntegerHeads;
  config.max_positions = options.max_positions;
  return config;
}

inline std::size_t integer_kv_size(const IntegerOptions& options) {
  return options.n_layers * options.limits.pages * backend::kPageTokens;
}

// The model in shares of these sizes, of `sum of sizes` in all. The first has the embedding. Cuts
// fall anywhere: this backend knows no units.
inline std::vector<model::Slice> divide_integer_model(const model::ModelConfig& config,
                                                      std::span<const std::size_t> shares) {
  std::size_t total = 0;
  for (const std::size_t share : shares) total += share;
  std::size_t begin = 0;
  std::vector<model::Slice> slices;
  for (const std::size_t share : shares) {
    const auto part = [begin, end = begin + share, total](std::size_t n) {
      return model::Range{n * begin / total, n * end / total};
    };
    slices.push_back({.heads = part(config.n_heads),
                      .expert_columns = part(config.moe_intermediate_size),
                      .shared_columns = part(config.shared_intermediate_size()),
                      .dense_columns = part(config.intermediate_size),
                      .vocab = part(config.vocab_size),
                      .embedding = slices.empty()});
    begin += share;
  }
  return slices;
}

class IntegerBackend final : public backend::Backend {
 public:
  IntegerBackend(const IntegerOptions& options, std::vector<model::Slice> slices)
      : options_(options),
        config_(integer_config(options)),
        slices_(std::move(slices)),
        kv_(options.kv) {
    if (kv_.empty()) {
      own_kv_.resize(integer_kv_size(options));
      kv_ = own_kv_;
    }
    CHECK(kv_.size() == integer_kv_size(options));
    for (std::size_t i = 0; i < slices_.size(); ++i) active_.push_back(i);
  }
  explicit IntegerBackend(const IntegerOptions& options)
      : IntegerBackend(options, {model::Slice::whole(integer_config(options))}) {}

  // What a test may set: where this rank's router chooses other experts than its hidden rows say.
  std::function<bool(LayerId)> misroutes = {};
  std::size_t n_attention = 0;  // calls

  const model::ModelConfig& config() const override { return config_; }
  const backend::Limits& limits() const override { return options_.limits; }
  std::string describe() const override { return "integers"; }

  void embed(const backend::Step& step) override {
    CHECK(std::ranges::any_of(slices_, &model::Slice::embedding));
    std::vector<float> rows(step.tokens.size() * kIntegerWidth, 0.0f);
    for (std::size_t row = 0; row < step.tokens.size(); ++row) {
      add_unit(key('e', 0, 0, step.tokens[row].value), 1, row, rows);
    }
    begin(step, rows);
  }

  void begin(const backend::Step& step, std::span<const float> residual) override {
    CHECK(step.tokens.size() <= options_.limits.rows_max);
    CHECK(residual.size() == step.tokens.size() * kIntegerWidth);
    step_ = step;
    hidden_.assign(residual.begin(), residual.end());
    partials_.assign(active_.size(), std::vector<float>(hidden_.size()));
    next_layer_ = 0;
    after_attention_ = false;
  }

  std::span<float> hidden() override { return hidden_; }

  void attention(LayerId layer) override {
    CHECK(follows(layer.value) && !after_attention_);
    next_layer_ = layer.value;
    after_attention_ = true;
    ++n_attention;
    clear_partials();
    digest_rows();
    for (const backend::SequenceRows& rows : step_.sequences) attend(layer, rows);
  }

  backend::Routing route(LayerId layer, std::span<const ExpertId> forced) override {
    CHECK(config_.is_moe(layer) && after_attention_);
    digest_rows();
    const std::uint64_t wrong = misroutes && misroutes(layer) ? 1 : 0;
    experts_.clear();
    for (std::size_t row = 0; row < n_rows(); ++row) {
      const std::uint64_t hash = key('r', layer.value, wrong, digests_[row]);
      const auto first = static_cast<std::uint16_t>(hash % 8);
      const auto second = static_cast<std::uint16_t>((first + 1 + (hash >> 8) % 7) % 8);
      experts_.push_back(ExpertId{std::min(first, second)});
      experts_.push_back(ExpertId{std::max(first, second)});
    }
    if (!forced.empty()) experts_.assign(forced.begin(), forced.end());
    CHECK(experts_.size() == n_rows() * 2);
    weights_.clear();
    for (std::size_t i = 0; i < experts_.size(); ++i) {
      const std::uint64_t hash = key('w', layer.value, experts_[i].value, digests_[i / 2]);
      weights_.push_back(static_cast<float>(1 + hash % 4));
    }
    return {experts_, weights_};
  }

  void set_routing(LayerId layer, const backend::Routing& routing) override {
    CHECK(config_.is_moe(layer));
    CHECK(routing.experts.size() == n_rows() * 2 && routing.weights.size() == n_rows() * 2);
    experts_.assign(routing.experts.begin(), routing.experts.end());
    weights_.assign(routing.weights.begin(), routing.weights.end());
  }

  // Again after a set_routing, too.
  void feed_forward(LayerId layer) override {
    CHECK(after_attention_ ? layer.value == next_layer_ : layer.value + 1u == next_layer_);
    next_layer_ = layer.value + std::size_t{1};
    after_attention_ = false;
    clear_partials();
    digest_rows();
    for (std::size_t row = 0; row < n_rows(); ++row) {
      for (std::size_t i = 0; i < active_.size(); ++i) {
        const model::Slice& slice = slices_[active_[i]];
        if (!model::contains(slice.layers, layer.value)) continue;
        if (config_.is_moe(layer)) {
          add_experts(layer, row, slice, partials_[i]);
        } else {
          add_units('d', layer, 0, slice.dense_columns, 1, row, partials_[i]);
        }
      }
    }
  }

  std::span<const float> partial(std::size_t i) override { return partials_.at(i); }

  void add_partial() override {
    CHECK(active_.size() == 1);
    for (std::size_t i = 0; i < hidden_.size(); ++i) hidden_[i] += partials_[0][i];
  }

  void head() override {
    CHECK(follows(config_.n_layers) && !after_attention_);
    digest_rows();
    logits_.assign(active_.size(), {});
    for (std::size_t i = 0; i < active_.size(); ++i) {
      const model::Range vocab = slices_[active_[i]].vocab;
      for (const std::uint32_t row : step_.head_rows) {
        for (std::size_t id = vocab.begin; id < vocab.end; ++id) {
          const std::uint64_t hash = key('v', 0, id, digests_[row]);
          logits_[i].push_back(static_cast<float>(hash % 16) - 8.0f);
        }
      }
    }
  }

  std::span<const float> logits(std::size_t i) override { return logits_.at(i); }

  std::span<const model::Slice> slices() const override { return slices_; }
  void activate(std::span<const std::size_t> slices) override {
    for (const std::size_t slice : slices) CHECK(slice < slices_.size());
    active_.assign(slices.begin(), slices.end());
  }
  std::span<const std::size_t> active() const override { return active_; }

 private:
  std::size_t n_rows() const { return step_.tokens.size(); }

  // The next layer, or a later one where the slices are stages of a pipeline.
  bool follows(std::size_t layer) const {
    const bool staged = std::ranges::any_of(
        slices_, [](const model::Slice& slice) { return slice.layers != model::kAll; });
    return staged ? layer >= next_layer_ : layer == next_layer_;
  }

  std::uint64_t key(char purpose, std::size_t layer, std::uint64_t unit, std::uint64_t row) const {
    const std::uint64_t place =
        hash_combine(options_.seed, (layer << 8) + static_cast<unsigned char>(purpose));
    return hash_combine(hash_combine(place, unit), row);
  }

  // rows[row] += scale * 8 numbers of -8 to 7, or tenths of them.
  void add_unit(std::uint64_t key, int scale, std::size_t row, std::span<float> rows) const {
    const float unit = options_.rounding ? 0.1f : 1.0f;
    for (std::size_t i = 0; i < kIntegerWidth; ++i) {
      const int number = static_cast<int>((key >> (4 * i)) & 15) - 8;
      rows[row * kIntegerWidth + i] += unit * static_cast<float>(scale * number);
    }
  }

  // NOLINTNEXTLINE(readability-function-size)
  void add_units(char purpose, LayerId layer, std::uint64_t expert, model::Range columns, int scale,
                 std::size_t row, std::span<float> rows) const {
    const std::uint64_t start = key(purpose, layer.value, expert, digests_[row]);
    for (std::size_t column = columns.begin; column < columns.end; ++column) {
      add_unit(mix64(start + column), scale, row, rows);
    }
  }

  void add_experts(LayerId layer, std::size_t row, const model::Slice& slice,
                   std::span<float> partial) const {
    for (std::size_t k = 2 * row; k < 2 * row + 2; ++k) {
      add_units('x', layer, experts_[k].value, slice.expert_columns, static_cast<int>(weights_[k]),
                row, partial);
    }
    add_units('s', layer, 0, slice.shared_columns, 1, row, partial);
  }

  void clear_partials() {
    for (std::vector<float>& partial : partials_) std::ranges::fill(partial, 0.0f);
  }

  // Stands for the norm: one hash of each row's hidden state.
  void digest_rows() {
    digests_.assign(n_rows(), options_.seed);
    for (std::size_t i = 0; i < hidden_.size(); ++i) {
      std::uint64_t& digest = digests_[i / kIntegerWidth];
      if (options_.rounding) {
        digest = hash_combine(digest, std::bit_cast<std::uint32_t>(hidden_[i]));
        continue;
      }
      const auto number = static_cast<std::int64_t>(hidden_[i]);
      CHECK(static_cast<float>(number) == hidden_[i] && number < (1 << 20) && number > -(1 << 20));
      digest = hash_combine(digest, static_cast<std::uint64_t>(number));
    }
  }

  std::uint64_t& kv_at(LayerId layer, const backend::SequenceRows& rows, std::size_t position) {
    const std::size_t page = rows.pages[position / backend::kPageTokens];
    CHECK(page < options_.limits.pages);
    const std::size_t slot = page * backend::kPageTokens + position % backend::kPageTokens;
    return kv_[layer.value * options_.limits.pages * backend::kPageTokens + slot];
  }

  void attend(LayerId layer, const backend::SequenceRows& rows) {
    const std::size_t end = rows.position + rows.n_rows;
    CHECK(rows.pages.size() * backend::kPageTokens >= end);
    std::uint64_t history = 0;
    for (std::size_t position = 0; position < end; ++position) {
      const std::size_t row = rows.first_row + position - rows.position;
      const bool is_new = position >= rows.position;
      std::uint64_t& kv = kv_at(layer, rows, position);
      if (is_new) kv = key('k', layer.value, position, digests_[row]);
      history += mix64(kv + position);
      if (!is_new) continue;
      const std::uint64_t query = key('h', layer.value, history, digests_[row]);
      for (std::size_t i = 0; i < active_.size(); ++i) {
        if (!model::contains(slices_[active_[i]].layers, layer.value)) continue;
        const model::Range heads = slices_[active_[i]].heads;
        for (std::size_t head = heads.begin; head < heads.end; ++head) {
          add_unit(mix64(query + head), 1, row, partials_[i]);
        }
      }
    }
  }

  IntegerOptions options_;
  model::ModelConfig config_;
  std::vector<model::Slice> slices_;
  std::vector<std::size_t> active_;
  std::vector<std::uint64_t> own_kv_;
  std::span<std::uint64_t> kv_;
  backend::Step step_;
  std::size_t next_layer_ = 0;
  bool after_attention_ = false;
  std::vector<std::uint64_t> digests_;  // by row
  std::vector<float> hidden_;
  std::vector<std::vector<float>> partials_;  // by active slice
  std::vector<ExpertId> experts_;
  std::vector<float> weights_;
  std::vector<std::vector<float>> logits_;  // by active slice
};

}  // namespace conclave::engine
