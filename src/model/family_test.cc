#include "model/family.h"

#include <gtest/gtest.h>

#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

using nlohmann::json;

// As in the published config.json of Qwen/Qwen3-30B-A3B, without what says nothing of the maths.
json qwen3_30b() {
  return json::parse(R"({
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936,
    "hidden_size": 2048, "num_hidden_layers": 48, "intermediate_size": 6144,
    "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
    "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "hidden_act": "silu",
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "rope_scaling": null,
    "max_position_embeddings": 40960, "attention_bias": false, "sliding_window": null,
    "use_sliding_window": false, "max_window_layers": 48, "tie_word_embeddings": false,
    "bos_token_id": 151643, "eos_token_id": 151645, "torch_dtype": "bfloat16"
  })");
}

json mixtral_8x7b() {
  return json::parse(R"({
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 32000,
    "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
    "num_local_experts": 8, "num_experts_per_tok": 2, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_act": "silu", "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0, "max_position_embeddings": 32768, "sliding_window": null,
    "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2
  })");
}

json glm_45() {
  return json::parse(R"({
    "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "vocab_size": 151552,
    "hidden_size": 5120, "num_hidden_layers": 92, "intermediate_size": 12288,
    "moe_intermediate_size": 1536, "n_routed_experts": 160, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1, "norm_topk_prob": true,
    "routed_scaling_factor": 2.5, "first_k_dense_replace": 3, "num_attention_heads": 96,
    "num_key_value_heads": 8, "head_dim": 128, "use_qk_norm": true, "attention_bias": true,
    "partial_rotary_factor": 0.5, "hidden_act": "silu", "rms_norm_eps": 1e-05,
    "rope_theta": 1000000, "rope_scaling": null, "max_position_embeddings": 131072,
    "num_nextn_predict_layers": 1, "tie_word_embeddings": false,
    "eos_token_id": [151329, 151336, 151338], "pad_token_id": 151329
  })");
}

json gpt_oss_20b() {
  return json::parse(R"({
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "vocab_size": 201088,
    "hidden_size": 2880, "num_hidden_layers": 4, "intermediate_size": 2880, "head_dim": 64,
    "num_local_experts": 32, "num_experts_per_tok": 4, "experts_per_token": 4,
    "num_attention_heads": 64, "num_key_value_heads": 8, "attention_bias": true,
    "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 150000, "sliding_window": 128,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
      "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false},
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "initial_context_length": 4096, "max_position_embeddings": 131072, "swiglu_limit": 7.0,
    "tie_word_embeddings": false, "eos_token_id": 200002, "pad_token_id": 199999,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
  })");
}

Result<Description> describe(const json& config) {
  return parse_description(config.dump(), "config.json");
}
ModelConfig config_of(const json& config) {
  auto description = describe(config);
  EXPECT_TRUE(description) << description.error().message;
  return description ? description->config : ModelConfig{};
}
std::string error_with(json config, const char* field, const json& value) {
  config[field] = value;
  const auto description = describe(config);
  return description ? "read" : description.error().message;
}

TEST(Family, Qwen3MoeAsPublished) {
  const ModelConfig c = config_of(qwen3_30b());
  EXPECT_TRUE(c.is_grouped());
  EXPECT_EQ(c.n_kv_heads, 4u);
  EXPECT_EQ(c.qk_head_dim(), 128u);
  EXPECT_EQ(c.qk_nope_head_dim, 0u);
  EXPECT_EQ(c.v_head_dim, 128u);
  EXPECT_EQ(c.kv_width(), 1024u);
  EXPECT_TRUE(c.qk_norm);
  EXPECT_FALSE(c.attention_bias);
  EXPECT_FALSE(c.rope_interleaved);
  EXPECT_EQ(c.router, RouterKind::kSoftmaxGreedy);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.n_experts, 128u);
  EXPECT_EQ(c.n_shared_experts, 0u);
  EXPECT_EQ(c.n_moe_layers(), 48u);
}

TEST(Family, Qwen3MoeHasDenseLayersWhereItSaysSo) {
  json config = qwen3_30b();
  config["num_hidden_layers"] = 6;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3};
  const ModelConfig c = config_of(config);
  std::vector<std::size_t> moe;
  for (std::uint16_t layer = 0; layer < 6; ++layer) {
    if (c.is_moe(LayerId{layer})) moe.push_back(layer);
  }
  EXPECT_EQ(moe, (std::vector<std::size_t>{1, 5}));
  for (const json& bad :
       {json(3), json({6}), json({-1}), json({3, 3}), json({4, 2}), json({"a"})}) {
    EXPECT_NE(error_with(config, "mlp_only_layers", bad).find("mlp_only_layers"), std::string::npos)
        << bad;
  }
}

TEST(Family, MixtralAsPublished) {
  const auto description = describe(mixtral_8x7b());
  ASSERT_TRUE(description) << description.error().message;
  const ModelConfig& c = description->config;
  EXPECT_EQ(c.qk_head_dim(), 128u);  // hidden_size / num_attention_heads
  EXPECT_FALSE(c.qk_norm);
  EXPECT_EQ(c.moe_intermediate_size, 14336u);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.n_moe_layers(), 32u);
  EXPECT_EQ(description->moe_block, "block_sparse_moe");
  EXPECT_EQ(description->expert_modules[1], "w3");
}

TEST(Family, Glm4MoeAsPublished) {
  const auto description = describe(glm_45());
  ASSERT_TRUE(description) << description.error().message;
  const ModelConfig& c = description->config;
  EXPECT_EQ(c.qk_rope_head_dim, 64u);
  EXPECT_EQ(c.qk_nope_head_dim, 64u);
  EXPECT_TRUE(c.qk_norm);
  EXPECT_TRUE(c.attention_bias);
  EXPECT_EQ(c.router, RouterKind::kSigmoidBiased);
  EXPECT_EQ(c.routed_scaling_factor, 2.5f);
  EXPECT_EQ(c.n_moe_layers(), 89u);
  EXPECT_EQ(description->n_mtp_layers, 1u);
  EXPECT_EQ(c.eos_token_ids.size(), 3u);
  EXPECT_NEAR(rope_table(c).softmax_scale, 1.0 / std::sqrt(128.0), 1e-12);
  EXPECT_EQ(rope_table(c).inv_freq.size(), 32u);

  json newer = glm_45();
  newer.erase("partial_rotary_factor");
  newer.erase("rope_theta");
  newer["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 1000000.0}, {"partial_rotary_factor", 0.5}};
  EXPECT_EQ(config_of(newer).qk_rope_head_dim, 64u);
  EXPECT_EQ(config_of(newer).rope, c.rope);
}

TEST(Family, GptOssAsPublished) {
  const auto description = describe(gpt_oss_20b());
  ASSERT_TRUE(description) << description.error().message;
  const ModelConfig& c = description->config;
  EXPECT_EQ(c.qk_head_dim(), 64u);
  EXPECT_TRUE(c.attention_bias && c.all_biases && c.attention_sinks);
  EXPECT_EQ(c.window(LayerId{0}), 128u);
  EXPECT_EQ(c.window(LayerId{1}), SIZE_MAX);
  EXPECT_EQ(c.sliding_layers, (std::vector<std::uint16_t>{0, 2}));
  EXPECT_EQ(c.swiglu_limit, 7.0f);
  EXPECT_EQ(description->quantization.method, QuantMethod::kMxfp4);
  EXPECT_EQ(description->router_module, "router");
  const RopeTable rope = rope_table(c);
  EXPECT_NEAR(rope.rotation_scale, 1.3465736, 1e-6);  // docs/models.md 2.9
  EXPECT_NEAR(rope.softmax_scale, 0.125, 1e-12);

  json other = gpt_oss_20b();
  other["layer_types"].erase(0);
  EXPECT_FALSE(describe(other));
  other["layer_types"] = {"sliding_attention", "full_attention", "full_attention",
                          "full_attention"};
  EXPECT_EQ(config_of(other).sliding_layers, std::vector<std::uint16_t>{0});
  other["layer_types"][1] = "linear_attention";
  EXPECT_FALSE(describe(other));
  EXPECT_NE(error_with(gpt_oss_20b(), "attention_bias", false), "read");
}

TEST(Family, DefaultsAreThoseOfTheFamily) {
  json config = mixtral_8x7b();
  config.erase("rope_theta");
  config.erase("rms_norm_eps");
  EXPECT_EQ(config_of(config).rope.theta, 1e6);
  EXPECT_EQ(config_of(config).rms_norm_eps, 1e-5f);
  config = qwen3_30b();
  config.erase("norm_topk_prob");
  EXPECT_FALSE(config_of(config).norm_topk_prob);
}

TEST(Family, OtherMathsIsRefused) {
  EXPECT_EQ(error_with(qwen3_30b(), "attention_bias", true),
            "config.json: attention_bias: true, expected false");
  EXPECT_EQ(error_with(qwen3_30b(), "num_key_value_heads", 5),
            "config.json: num_key_value_heads: 5, expected a divisor of num_attention_heads");
  for (const auto& [field, value] :
       std::vector<std::pair<const char*, json>>{{"head_dim", 127},
                                                 {"head_dim", 0},
                                                 {"num_key_value_heads", 33},
                                                 {"sliding_window", 4096},
                                                 {"use_sliding_window", true},
                                                 {"partial_rotary_factor", 0.5},
                                                 {"num_experts_per_tok", 129},
                                                 {"hidden_act", "gelu"}}) {
    EXPECT_NE(error_with(qwen3_30b(), field, value).find(field), std::string::npos) << field;
  }
  EXPECT_NE(error_with(glm_45(), "partial_rotary_factor", 0.001).find("partial_rotary_factor"),
            std::string::npos);
  EXPECT_NE(error_with(mixtral_8x7b(), "sliding_window", 4096).find("sliding_window"),
            std::string::npos);
}

}  // namespace
}  // namespace conclave::model
