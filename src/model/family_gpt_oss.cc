// gpt-oss 20b and 120b. docs/models.md 1.3, 2.8, 2.9: grouped-query attention with biases, a
// learned sink a head and, in every other layer, a window; softmax over the chosen experts; experts
// with biases and a clamped activation, in MXFP4 (arXiv 2508.10925 section 2).
#include "model/family.h"

namespace conclave::model {
namespace {

// layer_types says which; where it is absent, the even layers slide, as the class does.
Result<void> read_windows(const Fields& fields, ModelConfig& config) {
  config.sliding_window = TRY(fields.count("sliding_window", {1, std::size_t{1} << 30}));
  const nlohmann::json* types = fields.find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != config.n_layers)) {
    return fields.invalid("layer_types", "a list of " + std::to_string(config.n_layers));
  }
  for (std::size_t layer = 0; layer < config.n_layers; ++layer) {
    const bool slides =
        types == nullptr ? layer % 2 == 0 : (*types)[layer] == nlohmann::json("sliding_attention");
    if (slides) config.sliding_layers.push_back(static_cast<std::uint16_t>(layer));
  }
  return {};
}

}  // namespace

Result<void> describe_gpt_oss(const Fields& fields, Description& out) {
  ModelConfig& config = out.config;
  TRY(read_norm_eps(fields, 1e-5, config));
  out.rope_defaults.theta = 150000.0;
  TRY(read_grouped_attention(fields, 1.0, config));
  config.attention_bias = true;
  config.all_biases = true;
  config.attention_sinks = true;
  TRY(read_windows(fields, config));
  TRY(read_experts(fields, "num_local_experts", config));
  config.moe_intermediate_size = TRY(fields.count("intermediate_size", kDimension));
  config.intermediate_size = config.moe_intermediate_size;
  config.swiglu_limit = static_cast<float>(TRY(fields.number_or("swiglu_limit", 7.0, {0.01, 1e6})));
  config.router = RouterKind::kSoftmaxGreedy;
  config.norm_topk_prob = true;
  out.router_module = "router";
  return {};
}

}  // namespace conclave::model
