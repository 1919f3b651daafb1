// A "model" for the stand-in cluster: every number is a hash of what it would depend on, so a
// partial sum that is lost, doubled, stale or added in another order shows in the next token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "collective/collective.h"
#include "scenario.h"

namespace conclave::cluster_sim::standin {

inline constexpr std::size_t kHidden = 4;
inline constexpr std::size_t kLayers = 2;
inline constexpr std::size_t kExpertsPerToken = 2;
inline constexpr std::size_t kLogitsPerVirtualRank = 2;
inline constexpr std::size_t kChunk = 16;  // prompt rows in a step
// Of a step's rows in the direct form: a chunk takes the large form, a few decode rows the other.
inline constexpr std::size_t kDirectBytesMax = 6 * kHidden * sizeof(float);

// Two virtual ranks for even nodes, one for odd ones: `group` of each, ascending.
std::vector<std::uint16_t> groups_of(std::size_t n_nodes);

// The row of a sequence's last token: a hash of all before it, as attention would see it.
std::vector<float> residual_row(const ScenarioRequest& request, std::size_t n_prompt,
                                std::span<const std::uint64_t> answer);
// [rows, kHidden]
std::vector<float> partial(std::size_t virtual_rank, const collective::Tag& tag,
                           std::span<const float> hidden);
struct Routing {
  std::vector<ExpertId> experts;  // [rows, kExpertsPerToken]
  std::vector<float> weights;
};
Routing route(std::size_t layer, std::span<const float> hidden);
// [kLogitsPerVirtualRank] for one row
std::vector<float> logits(std::size_t virtual_rank, std::span<const float> row);
std::uint64_t token_of(std::span<const float> all_logits);

// The answer of one machine, computed without engine or collective.
std::vector<std::uint64_t> answer(const ScenarioRequest& request, std::size_t n_nodes);

}  // namespace conclave::cluster_sim::standin
