// JSON written piece by piece, for answers too large for a document in memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"

namespace conclave::apps {

// The `top` largest logits, best first, equal ones by ascending id. A `top` above the vocabulary
// means all.
std::vector<TokenId> best_tokens(std::span<const float> logits, std::size_t top);

// {"ids": [...], "logits": [...]} with nine significant digits, which name every float exactly.
std::string position_json(std::span<const float> logits, std::span<const TokenId> ids);

// [[1, 2], [3, 4]] for two layers of k = 2: one position of a dump of experts.
std::string experts_json(std::span<const ExpertId> experts, std::size_t experts_per_token);

}  // namespace conclave::apps
