// The JSON files that `logits` and `perplexity` read: token ids and chosen experts.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "model/model.h"

namespace conclave::apps {

// An array of token ids below `vocab_size`, at least one. `label` names the source in errors, which
// name the first wrong element.
Result<std::vector<TokenId>> parse_token_ids(std::string_view json, std::string_view label,
                                             std::size_t vocab_size);
Result<std::vector<TokenId>> read_token_ids(const std::filesystem::path& path,
                                            std::size_t vocab_size);

// [position][MoE layer][k] expert ids of exactly `n_positions` positions, as `--dump-experts`
// writes them; flattened, ascending within a layer. Refuses repeated experts in a layer.
Result<std::vector<ExpertId>> parse_experts(std::string_view json, std::string_view label,
                                            const model::ModelConfig& config,
                                            std::size_t n_positions);
Result<std::vector<ExpertId>> read_experts(const std::filesystem::path& path,
                                           const model::ModelConfig& config,
                                           std::size_t n_positions);

}  // namespace conclave::apps
