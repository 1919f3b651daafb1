#include <utility>
#include <vector>

#include "model/description.h"

namespace conclave::model {
namespace {

using nlohmann::json;

// `kind_of(layer)` for every layer, when the field is there at all.
template <class KindOf>
Result<void> expect_per_layer(const Fields& fields, std::string_view field, std::size_t n_layers,
                              const KindOf& kind_of) {
  const json* list = fields.find(field);
  if (list == nullptr) return {};
  const std::string count = "a list of " + std::to_string(n_layers);
  if (!list->is_array() || list->size() != n_layers) return fields.invalid(field, count);
  for (std::size_t layer = 0; layer < n_layers; ++layer) {
    const std::string wanted = kind_of(layer);
    if ((*list)[layer] != json(wanted)) {
      return fields.not_supported(field, "\"" + wanted + "\" for layer " + std::to_string(layer));
    }
  }
  return {};
}

}  // namespace

// Only DeepSeek's attention multiplies its scores by the square of mscale_all_dim's amplitude.
Result<void> refuse_other_stretch(const Fields& fields, const Description& description) {
  const RopeConfig& rope = description.config.rope;
  if (description.config.is_grouped() && (rope.mscale != 1.0 || rope.mscale_all_dim != 0.0)) {
    return fields.not_supported("rope_scaling", "no mscale and no mscale_all_dim");
  }
  if (description.config.all_biases && !rope.yarn) {  // its class would stretch by 32
    return fields.invalid("rope_scaling", "an object");
  }
  return {};
}

Result<void> refuse_other_maths(const Fields& fields, const Description& description) {
  const ModelConfig& config = description.config;
  const std::vector<std::pair<std::string_view, json>> only_values = {
      {"hidden_act", "silu"},
      {"attention_bias", config.attention_bias},
      {"mlp_bias", false},
      {"use_sliding_window", false},
      {"partial_rotary_factor", description.rope_defaults.rotary_share},
      {"qk_head_dim", config.qk_head_dim()},
      {"mlp_only_layers", config.dense_layers},
      {"rope_interleave", config.rope_interleaved},
  };
  for (const auto& [field, value] : only_values) TRY(fields.expect_if_present(field, value));

  // Soft caps, the sparse attention of DeepSeek V3.2, and what the family has not read itself.
  std::vector<std::string_view> unknown = {
      "attention_chunk_size", "attn_logit_softcapping", "final_logit_softcapping", "index_topk",
      "index_n_heads",        "index_head_dim",         "linear_attn_config"};
  if (config.sliding_window == 0) unknown.emplace_back("sliding_window");
  if (config.swiglu_limit == 0.0f) unknown.emplace_back("swiglu_limit");
  for (const std::string_view field : unknown) {
    if (fields.find(field) != nullptr) return fields.not_supported(field, "no such field");
  }

  TRY(expect_per_layer(fields, "layer_types", config.n_layers, [&config](std::size_t layer) {
    const bool slides = config.window(LayerId{static_cast<std::uint16_t>(layer)}) != SIZE_MAX;
    return std::string(slides ? "sliding_attention" : "full_attention");
  }));
  return expect_per_layer(fields, "mlp_layer_types", config.n_layers, [&config](std::size_t layer) {
    const bool moe = config.is_moe(LayerId{static_cast<std::uint16_t>(layer)});
    return std::string(moe ? "sparse" : "dense");
  });
}

Result<void> check_router(const Fields& fields, const ModelConfig& config) {
  const std::string experts = std::to_string(config.n_experts) + " experts";
  if (config.n_experts % config.n_group != 0) {
    return fields.invalid("n_group", "a divisor of " + experts);
  }
  const std::size_t per_group = config.n_experts / config.n_group;
  // A group's score is the sum of its two best experts. docs/models.md 2.6.
  if (config.router == RouterKind::kSigmoidBiased && config.n_group > 1 && per_group < 2) {
    return fields.invalid("n_group", "at least 2 experts a group, of " + experts);
  }
  if (config.experts_per_token > config.topk_group * per_group) {
    return fields.invalid("num_experts_per_tok", "at most the " +
                                                     std::to_string(config.topk_group * per_group) +
                                                     " experts in the groups that are kept");
  }
  // The published V2 either normalises or scales; other code does both. Where both would matter
  // there is no right answer. docs/models.md 2.7.
  if (config.router != RouterKind::kSigmoidBiased && config.norm_topk_prob &&
      config.routed_scaling_factor != 1.0f) {
    return fields.not_supported("routed_scaling_factor", "1 where norm_topk_prob is true");
  }
  return {};
}

}  // namespace conclave::model
