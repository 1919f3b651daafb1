// The families of models: for each, one function that reads what its config.json says.
//
// To add one: a file with its `describe_...`, a line in the table of family.cc, a
// toy in tools/reference. CONTRIBUTING.md says how.
#pragma once

#include <array>
#include <span>
#include <string_view>

#include "model/description.h"

namespace conclave::model {

struct Family {
  std::string_view architecture;
  std::string_view other_spelling;    // of transformers 5, where it differs
  std::string_view outer_model_type;  // not empty: the text fields are in `text_config`
  std::array<std::string_view, 2> model_types;
  // Fills in what is the family's own; names, sizes and the rest that all share are there already.
  Result<void> (*describe)(const Fields& fields, Description& out);
};

// In the order in which errors list them.
std::span<const Family> families();

Result<void> describe_deepseek_v2(const Fields& fields, Description& out);
Result<void> describe_deepseek_v3(const Fields& fields, Description& out);  // and Kimi
Result<void> describe_qwen3_moe(const Fields& fields, Description& out);
Result<void> describe_mixtral(const Fields& fields, Description& out);
Result<void> describe_glm4_moe(const Fields& fields, Description& out);
Result<void> describe_gpt_oss(const Fields& fields, Description& out);

// ---- Parts that families share ------------------------------------------------------------------

inline constexpr CountLimits kDimension{1, std::size_t{1} << 20};
inline constexpr CountLimits kExpertCount{1, 4096};
inline constexpr CountLimits kHeadDimension{2, 4096};
inline constexpr NumberLimits kScalingFactor{1e-6, 1e6};

// `otherwise`: the default of the family's class in transformers.
Result<void> read_norm_eps(const Fields& fields, double otherwise, ModelConfig& config);
// first_k_dense_replace, moe_layer_freq.
Result<void> read_dense_layers(const Fields& fields, ModelConfig& config);
// kv_lora_rank and its company.
Result<void> read_latent_attention(const Fields& fields, ModelConfig& config);
// num_key_value_heads, head_dim; the first `rotary_share` of a head is rotated, in halves.
Result<void> read_grouped_attention(const Fields& fields, double rotary_share, ModelConfig& config);
// How many experts there are, which differs in name, and how many a token gets.
Result<void> read_experts(const Fields& fields, std::string_view count_field, ModelConfig& config);
// n_group, topk_group.
Result<void> read_groups(const Fields& fields, ModelConfig& config);

}  // namespace conclave::model
