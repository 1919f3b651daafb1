#include "standin_model.h"

#include <bit>

#include "base/rng.h"

namespace conclave::cluster_sim::standin {
namespace {

constexpr std::size_t kExperts = 8;

// Of many magnitudes, so that sums in another order differ.
float number(std::uint64_t hash) {
  const double scale = static_cast<double>(std::uint64_t{1} << (mix64(hash) % 12));
  return static_cast<float>((2.0 * unit_interval(hash) - 1.0) * scale);
}

std::uint64_t hash_of(std::span<const float> values, std::uint64_t seed) {
  for (const float value : values) seed = hash_combine(seed, std::bit_cast<std::uint32_t>(value));
  return seed;
}

}  // namespace

std::vector<std::uint16_t> groups_of(std::size_t n_nodes) {
  std::vector<std::uint16_t> groups;
  for (std::size_t node = 0; node < n_nodes; ++node) {
    groups.insert(groups.end(), node % 2 == 0 ? 2 : 1, static_cast<std::uint16_t>(node));
  }
  return groups;
}

std::vector<float> residual_row(const ScenarioRequest& request, std::size_t n_prompt,
                                std::span<const std::uint64_t> answer) {
  std::uint64_t history = hash_combine(request.seed, n_prompt);
  for (const std::uint64_t token : answer) history = hash_combine(history, token);
  std::vector<float> row;
  for (std::size_t i = 0; i < kHidden; ++i) row.push_back(number(hash_combine(history, i)));
  return row;
}

std::vector<float> partial(std::size_t virtual_rank, const collective::Tag& tag,
                           std::span<const float> hidden) {
  const std::uint64_t place =
      hash_combine(hash_combine(virtual_rank, tag.layer), static_cast<std::uint64_t>(tag.phase));
  std::vector<float> result;
  for (std::size_t row = 0; row < hidden.size(); row += kHidden) {
    const std::uint64_t hash = hash_of(hidden.subspan(row, kHidden), place);
    for (std::size_t i = 0; i < kHidden; ++i) result.push_back(number(hash_combine(hash, i)));
  }
  return result;
}

Routing route(std::size_t layer, std::span<const float> hidden) {
  Routing routing;
  for (std::size_t row = 0; row < hidden.size(); row += kHidden) {
    const std::uint64_t hash = hash_of(hidden.subspan(row, kHidden), layer);
    routing.experts.push_back(ExpertId{static_cast<std::uint16_t>(hash % (kExperts - 1))});
    routing.experts.push_back(ExpertId{kExperts - 1});
    routing.weights.insert(routing.weights.end(), kExpertsPerToken, 0.5f);
  }
  return routing;
}

std::vector<float> logits(std::size_t virtual_rank, std::span<const float> row) {
  std::vector<float> result;
  for (std::size_t i = 0; i < kLogitsPerVirtualRank; ++i) {
    result.push_back(number(hash_combine(hash_of(row, virtual_rank), i)));
  }
  return result;
}

std::uint64_t token_of(std::span<const float> all_logits) { return hash_of(all_logits, 1); }

std::vector<std::uint64_t> answer(const ScenarioRequest& request, std::size_t n_nodes) {
  const std::vector<std::uint16_t> groups = groups_of(n_nodes);
  std::vector<std::uint64_t> tokens;
  while (tokens.size() < request.answer_tokens) {
    std::vector<float> hidden = residual_row(request, request.prompt_tokens, tokens);
    for (std::uint16_t layer = 0; layer < kLayers; ++layer) {
      for (const wire::Phase phase : {wire::Phase::kAttention, wire::Phase::kFeedForward}) {
        const std::vector<float> before = hidden;
        for (std::size_t v = 0; v < groups.size();) {
          // Group 0 is added to the residual one by one, the others as their sum.
          std::vector<float> sum = partial(v, {0, layer, phase}, before);
          const std::uint16_t group = groups[v];
          for (++v; v < groups.size() && groups[v] == group; ++v) {
            const std::vector<float> next = partial(v, {0, layer, phase}, before);
            for (std::size_t i = 0; i < kHidden; ++i) {
              if (group == 0) {
                sum[i] = (hidden[i] + sum[i]) + next[i];
              } else {
                sum[i] += next[i];
              }
            }
          }
          for (std::size_t i = 0; i < kHidden; ++i) {
            hidden[i] = group == 0 ? sum[i] : hidden[i] + sum[i];
          }
        }
      }
    }
    std::vector<float> all;
    for (std::size_t v = 0; v < groups.size(); ++v) {
      const std::vector<float> share = logits(v, hidden);
      all.insert(all.end(), share.begin(), share.end());
    }
    tokens.push_back(token_of(all));
  }
  return tokens;
}

}  // namespace conclave::cluster_sim::standin
