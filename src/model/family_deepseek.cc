// DeepSeek V2 and V3, R1, Moonlight, and Kimi K2, whose text model is V3's. docs/models.md 1.1,
// 1.2: multi-head latent attention (arXiv 2405.04434 section 2.1), shared and routed experts,
// softmax (V2) or biased sigmoid (V3, arXiv 2412.19437 section 2.1.2) routing.
#include "model/family.h"

namespace conclave::model {
namespace {

// The epsilon of q_a_layernorm and kv_a_layernorm: their modules are made with the class default,
// whatever rms_norm_eps says. docs/models.md 2.1.
constexpr float kInnerNormEps = 1e-6f;

Result<void> read_body(const Fields& fields, ModelConfig& config) {
  TRY(read_norm_eps(fields, 1e-6, config));
  TRY(read_dense_layers(fields, config));
  config.intermediate_size = TRY(fields.count("intermediate_size", kDimension));
  config.inner_norm_eps = kInnerNormEps;
  TRY(read_latent_attention(fields, config));
  TRY(read_experts(fields, "n_routed_experts", config));
  config.n_shared_experts = TRY(fields.count_or("n_shared_experts", 0, {0, 64}));
  config.moe_intermediate_size = TRY(fields.count("moe_intermediate_size", kDimension));
  return {};
}

}  // namespace

// transformers 5 writes neither scoring_func nor, for V3, topk_method: the model type decides.
Result<void> describe_deepseek_v2(const Fields& fields, Description& out) {
  ModelConfig& config = out.config;
  TRY(read_body(fields, config));
  TRY(fields.expect_if_present("scoring_func", "softmax"));
  const std::string method = TRY(fields.text_or("topk_method", "greedy"));
  if (method != "greedy" && method != "group_limited_greedy") {
    return fields.not_supported("topk_method", "\"greedy\" or \"group_limited_greedy\"");
  }
  config.router =
      method == "greedy" ? RouterKind::kSoftmaxGreedy : RouterKind::kSoftmaxGroupLimited;
  if (config.router == RouterKind::kSoftmaxGroupLimited) TRY(read_groups(fields, config));
  config.norm_topk_prob = TRY(fields.flag_or("norm_topk_prob", false));
  config.routed_scaling_factor =
      static_cast<float>(TRY(fields.number_or("routed_scaling_factor", 1.0, kScalingFactor)));
  return {};
}

Result<void> describe_deepseek_v3(const Fields& fields, Description& out) {
  ModelConfig& config = out.config;
  TRY(read_body(fields, config));
  TRY(fields.expect_if_present("scoring_func", "sigmoid"));
  TRY(fields.expect_if_present("topk_method", "noaux_tc"));
  config.router = RouterKind::kSigmoidBiased;
  TRY(read_groups(fields, config));
  config.norm_topk_prob = TRY(fields.flag("norm_topk_prob"));
  config.routed_scaling_factor =
      static_cast<float>(TRY(fields.number("routed_scaling_factor", kScalingFactor)));
  return {};
}

}  // namespace conclave::model
