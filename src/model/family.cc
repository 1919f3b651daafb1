#include "model/family.h"

#include <algorithm>

namespace conclave::model {

std::span<const Family> families() {
  static constexpr std::array<Family, 7> kFamilies = {{
      {"DeepseekV2ForCausalLM", "", "", {"deepseek_v2", "deepseek_v2"}, describe_deepseek_v2},
      {"DeepseekV3ForCausalLM", "", "", {"deepseek_v3", "kimi_k2"}, describe_deepseek_v3},
      {"KimiK25ForConditionalGeneration",
       "Kimi_K25ForConditionalGeneration",
       "kimi_k25",
       {"kimi_k2", "deepseek_v3"},
       describe_deepseek_v3},
      {"Qwen3MoeForCausalLM", "", "", {"qwen3_moe", "qwen3_moe"}, describe_qwen3_moe},
      {"MixtralForCausalLM", "", "", {"mixtral", "mixtral"}, describe_mixtral},
      {"Glm4MoeForCausalLM", "", "", {"glm4_moe", "glm4_moe"}, describe_glm4_moe},
      {"GptOssForCausalLM", "", "", {"gpt_oss", "gpt_oss"}, describe_gpt_oss},
  }};
  return kFamilies;
}

Result<void> read_norm_eps(const Fields& fields, double otherwise, ModelConfig& config) {
  constexpr NumberLimits kEpsilon{1e-12, 1e-2};
  config.rms_norm_eps =
      static_cast<float>(TRY(fields.number_or("rms_norm_eps", otherwise, kEpsilon)));
  return {};
}

Result<void> read_dense_layers(const Fields& fields, ModelConfig& config) {
  // Only ever compared with a layer's number, so more than there are layers means all of them.
  const std::size_t n_dense = TRY(fields.count("first_k_dense_replace", {0, 1024}));
  config.n_dense_layers = std::min(n_dense, config.n_layers);
  config.moe_layer_freq = TRY(fields.count_or("moe_layer_freq", 1, {1, 1024}));
  return {};
}

Result<void> read_latent_attention(const Fields& fields, ModelConfig& config) {
  if (fields.find("q_lora_rank") != nullptr) {
    config.q_lora_rank = TRY(fields.count("q_lora_rank", kDimension));
  }
  config.kv_lora_rank = TRY(fields.count("kv_lora_rank", kDimension));
  config.qk_nope_head_dim = TRY(fields.count("qk_nope_head_dim", {1, 4096}));
  config.qk_rope_head_dim = TRY(fields.count("qk_rope_head_dim", kHeadDimension));
  if (config.qk_rope_head_dim % 2 != 0) {
    return fields.invalid("qk_rope_head_dim", "an even number");
  }
  config.v_head_dim = TRY(fields.count("v_head_dim", {1, 4096}));
  config.rope_interleaved = TRY(fields.flag_or("rope_interleave", true));
  return {};
}

Result<void> read_grouped_attention(const Fields& fields, double rotary_share,
                                    ModelConfig& config) {
  config.n_kv_heads = TRY(fields.count("num_key_value_heads", {1, config.n_heads}));
  if (config.n_heads % config.n_kv_heads != 0) {
    return fields.invalid("num_key_value_heads", "a divisor of num_attention_heads");
  }
  std::size_t head_dim = config.hidden_size / config.n_heads;
  if (fields.find("head_dim") != nullptr || head_dim < kHeadDimension.min) {
    head_dim = TRY(fields.count("head_dim", kHeadDimension));
  }
  const auto rotary = static_cast<std::size_t>(static_cast<double>(head_dim) * rotary_share);
  if (rotary % 2 != 0 || rotary < 2) {
    return fields.invalid("head_dim", "an even number of rotated dimensions, at least 2");
  }
  config.qk_rope_head_dim = rotary;
  config.qk_nope_head_dim = head_dim - rotary;
  config.v_head_dim = head_dim;
  config.rope_interleaved = false;
  return {};
}

Result<void> read_experts(const Fields& fields, std::string_view count_field, ModelConfig& config) {
  config.n_experts = TRY(fields.count(count_field, kExpertCount));
  config.experts_per_token = TRY(fields.count("num_experts_per_tok", {1, config.n_experts}));
  return {};
}

Result<void> read_groups(const Fields& fields, ModelConfig& config) {
  config.n_group = TRY(fields.count("n_group", {1, config.n_experts}));
  config.topk_group = TRY(fields.count("topk_group", {1, config.n_group}));
  return {};
}

}  // namespace conclave::model
