// Teacher forcing: the logits of every position of a given text.

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "engine/engine.h"
#include "engine/kv_pages.h"
#include "engine/step.h"

namespace conclave::engine {
namespace {

Result<void> check_forced(std::span<const ExpertId> forced, std::size_t per_position,
                          std::size_t n_positions, const model::ModelConfig& config) {
  if (forced.empty()) return {};
  if (forced.size() != n_positions * per_position) {
    return invalid_input("forced experts: " + std::to_string(forced.size()) + " ids; expected " +
                         std::to_string(n_positions) + " positions of " +
                         std::to_string(per_position));
  }
  const std::size_t k = config.experts_per_token;
  for (std::size_t begin = 0; begin < forced.size(); begin += k) {
    const std::span<const ExpertId> row = forced.subspan(begin, k);
    for (std::size_t i = 0; i < k; ++i) {
      const bool is_new = std::ranges::count(row.first(i), row[i]) == 0;
      if (is_new && row[i].value < config.n_experts) continue;
      return invalid_input("forced experts of position " + std::to_string(begin / per_position) +
                           ": id " + std::to_string(row[i].value) +
                           "; expected different ids below " + std::to_string(config.n_experts));
    }
  }
  return {};
}

Result<void> check_evaluation(const backend::Backend& backend, std::span<const TokenId> ids,
                              const EvaluateOptions& options, std::size_t experts_per_position) {
  const model::ModelConfig& config = backend.config();
  if (options.chunk_tokens == 0) return invalid_input("chunk_tokens is 0; the least is 1");
  if (ids.size() > config.max_positions) {
    return invalid_input("the text has " + std::to_string(ids.size()) +
                         " tokens; the context holds " + std::to_string(config.max_positions));
  }
  if (pages_for(ids.size()) > backend.limits().pages) {
    return exhausted("the text has " + std::to_string(ids.size()) +
                     " tokens; there is KV memory for " +
                     std::to_string(backend.limits().pages * backend::kPageTokens));
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i].value < config.vocab_size) continue;
    return invalid_input("token " + std::to_string(i) + " is id " + std::to_string(ids[i].value) +
                         "; the vocabulary has " + std::to_string(config.vocab_size));
  }
  return check_forced(options.forced_experts, experts_per_position, ids.size(), config);
}

// The experts of a chunk's rows. Callers keep them by position, [row][MoE layer][k]; a router sees
// one layer at a time, [row][k], ascending within a row.
class ChunkRouting {
 public:
  ChunkRouting(std::size_t n_rows, std::size_t n_moe_layers, std::size_t k)
      : n_rows_(n_rows), n_moe_layers_(n_moe_layers), k_(k), layer_(n_rows * k) {}

  std::span<const ExpertId> of_layer(std::span<const ExpertId> by_position, std::size_t moe_layer) {
    for (std::size_t row = 0; row < n_rows_; ++row) {
      const std::span<ExpertId> experts = std::span(layer_).subspan(row * k_, k_);
      std::ranges::copy(by_position.subspan(at(row, moe_layer), k_), experts.begin());
      std::ranges::sort(experts);
    }
    return layer_;
  }
  void store_layer(std::span<const ExpertId> layer, std::size_t moe_layer,
                   std::span<ExpertId> by_position) const {
    CHECK(layer.size() == n_rows_ * k_);
    for (std::size_t row = 0; row < n_rows_; ++row) {
      std::ranges::copy(layer.subspan(row * k_, k_), &by_position[at(row, moe_layer)]);
    }
  }

 private:
  std::size_t at(std::size_t row, std::size_t moe_layer) const {
    return (row * n_moe_layers_ + moe_layer) * k_;
  }

  std::size_t n_rows_;
  std::size_t n_moe_layers_;
  std::size_t k_;
  std::vector<ExpertId> layer_;
};

}  // namespace

Result<void> evaluate(backend::Backend& backend, std::span<const TokenId> ids,
                      const EvaluateOptions& options,
                      const std::function<void(const EvaluatedRow&)>& row) {
  const model::ModelConfig& config = backend.config();
  const std::size_t n_moe_layers = config.n_moe_layers();
  const std::size_t k = config.experts_per_token;
  const std::size_t experts_per_position = n_moe_layers * k;
  TRY(check_evaluation(backend, ids, options, experts_per_position));

  const std::size_t chunk_tokens = std::min(options.chunk_tokens, backend.limits().rows_max);
  std::vector<backend::PageIndex> pages(pages_for(ids.size()));
  std::iota(pages.begin(), pages.end(), backend::PageIndex{0});
  Ranks alone;

  for (std::size_t begin = 0; begin < ids.size(); begin += chunk_tokens) {
    const std::size_t n_rows = std::min(chunk_tokens, ids.size() - begin);
    const backend::SequenceRows rows{.first_row = 0,
                                     .n_rows = n_rows,
                                     .position = begin,
                                     .pages = std::span(pages).first(pages_for(begin + n_rows))};
    std::vector<std::uint32_t> head_rows(n_rows);
    std::iota(head_rows.begin(), head_rows.end(), 0u);

    ChunkRouting routing(n_rows, n_moe_layers, k);
    std::vector<ExpertId> chosen(n_rows * experts_per_position);
    StepHooks hooks;
    hooks.chosen = [&](std::size_t moe_layer, const backend::Routing& layer) {
      routing.store_layer(layer.experts, moe_layer, chosen);
    };
    if (!options.forced_experts.empty()) {
      hooks.forced = [&](std::size_t moe_layer) {
        return routing.of_layer(options.forced_experts.subspan(begin * experts_per_position,
                                                               n_rows * experts_per_position),
                                moe_layer);
      };
    }

    const std::span<const float> logits = TRY(run_step(
        backend, alone,
        {.tokens = ids.subspan(begin, n_rows), .sequences = {&rows, 1}, .head_rows = head_rows},
        hooks));
    CHECK(logits.size() == n_rows * config.vocab_size);
    for (std::size_t i = 0; i < n_rows; ++i) {
      row({.position = begin + i,
           .logits = logits.subspan(i * config.vocab_size, config.vocab_size),
           .experts = std::span(chosen).subspan(i * experts_per_position, experts_per_position)});
    }
  }
  return {};
}

}  // namespace conclave::engine
