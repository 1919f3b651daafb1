// GLM-4.5, 4.5-Air, 4.6. docs/models.md 1.3, 2.6, 2.9: grouped-query attention of which half of
// each head is rotated, with biases and, in the large ones, norms of query and key; router and
// experts as in DeepSeek V3 (arXiv 2508.06471 section 2.1).
#include "model/family.h"

namespace conclave::model {
namespace {

// transformers 4 says it outside, 5 in rope_parameters.
Result<double> read_rotary_share(const Fields& fields) {
  constexpr NumberLimits kShare{0.01, 1.0};
  if (fields.find("partial_rotary_factor") != nullptr) {
    return TRY(fields.number("partial_rotary_factor", kShare));
  }
  const std::optional<Fields> rope = TRY(fields.object("rope_parameters"));
  return rope ? TRY(rope->number_or("partial_rotary_factor", 0.5, kShare)) : 0.5;
}

}  // namespace

Result<void> describe_glm4_moe(const Fields& fields, Description& out) {
  ModelConfig& config = out.config;
  TRY(read_norm_eps(fields, 1e-5, config));
  out.rope_defaults.rotary_share = TRY(read_rotary_share(fields));
  TRY(read_grouped_attention(fields, out.rope_defaults.rotary_share, config));
  config.qk_norm = TRY(fields.flag_or("use_qk_norm", false));
  config.attention_bias = TRY(fields.flag_or("attention_bias", false));
  TRY(read_dense_layers(fields, config));
  config.intermediate_size = TRY(fields.count("intermediate_size", kDimension));
  TRY(read_experts(fields, "n_routed_experts", config));
  config.n_shared_experts = TRY(fields.count_or("n_shared_experts", 0, {0, 64}));
  config.moe_intermediate_size = TRY(fields.count("moe_intermediate_size", kDimension));
  TRY(fields.expect_if_present("scoring_func", "sigmoid"));
  TRY(fields.expect_if_present("topk_method", "noaux_tc"));
  config.router = RouterKind::kSigmoidBiased;
  TRY(read_groups(fields, config));
  config.norm_topk_prob = TRY(fields.flag_or("norm_topk_prob", true));
  config.routed_scaling_factor =
      static_cast<float>(TRY(fields.number_or("routed_scaling_factor", 1.0, kScalingFactor)));
  return {};
}

}  // namespace conclave::model
