#include "model/gguf_config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "formats/test_gguf.h"

namespace conclave::model {
namespace {

using formats::GgufBuilder;

Result<Description> describe(const GgufBuilder& file) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "config.gguf";
  file.write(path);
  const auto gguf = formats::Gguf::open({path});
  if (!gguf) return gguf.error();
  return describe_gguf(*gguf);
}

GgufBuilder common(const std::string& arch) {
  GgufBuilder file;
  file.text("general.architecture", arch);
  file.count(arch + ".context_length", 131072).count(arch + ".embedding_length", 7168);
  file.number(arch + ".attention.layer_norm_rms_epsilon", 1e-6f);
  return file;
}

// The keys of the published Kimi-K2-Instruct files, which have no beta_fast. docs/models.md 5.7
GgufBuilder kimi_k2(const std::string& name) {
  GgufBuilder file = common("deepseek2");
  file.text("general.name", name).count("deepseek2.block_count", 61);
  file.count("deepseek2.feed_forward_length", 18432).count("deepseek2.attention.head_count", 64);
  file.count("deepseek2.attention.head_count_kv", 1).count("deepseek2.attention.q_lora_rank", 1536);
  file.count("deepseek2.attention.kv_lora_rank", 512);
  file.count("deepseek2.attention.key_length", 576).count("deepseek2.attention.value_length", 512);
  file.count("deepseek2.attention.key_length_mla", 192);
  file.count("deepseek2.attention.value_length_mla", 128);
  file.count("deepseek2.expert_count", 384).count("deepseek2.expert_used_count", 8);
  file.count("deepseek2.expert_shared_count", 1);
  file.count("deepseek2.expert_feed_forward_length", 2048);
  file.number("deepseek2.expert_weights_scale", 2.827f);
  file.flag("deepseek2.expert_weights_norm", true).count("deepseek2.expert_gating_func", 2);
  file.count("deepseek2.leading_dense_block_count", 1).count("deepseek2.vocab_size", 163840);
  file.count("deepseek2.rope.dimension_count", 64).number("deepseek2.rope.freq_base", 50000.0f);
  file.text("deepseek2.rope.scaling.type", "yarn").number("deepseek2.rope.scaling.factor", 32.0f);
  file.count("deepseek2.rope.scaling.original_context_length", 4096);
  file.number("deepseek2.rope.scaling.yarn_log_multiplier", 0.1f);
  file.count("tokenizer.ggml.eos_token_id", 163586);
  file.tensor("output.weight", 0, {1}, "1234");
  return file;
}

TEST(GgufConfig, KimiK2) {
  const auto description = describe(kimi_k2("Kimi-K2-Instruct"));
  ASSERT_TRUE(description) << description.error().message;
  const ModelConfig& c = description->config;
  EXPECT_EQ(c.n_layers, 61u);
  EXPECT_EQ(c.n_heads, 64u);
  EXPECT_EQ(c.q_lora_rank, 1536u);
  EXPECT_EQ(c.kv_lora_rank, 512u);
  EXPECT_EQ(c.qk_nope_head_dim, 128u);
  EXPECT_EQ(c.qk_rope_head_dim, 64u);
  EXPECT_EQ(c.v_head_dim, 128u);
  EXPECT_EQ(c.n_experts, 384u);
  EXPECT_EQ(c.n_group, 1u);
  EXPECT_EQ(c.router, RouterKind::kSigmoidBiased);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_FLOAT_EQ(c.routed_scaling_factor, 2.827f);
  EXPECT_FLOAT_EQ(c.rms_norm_eps, 1e-6f);
  EXPECT_EQ(c.rope.theta, 50000.0);
  EXPECT_TRUE(c.rope.yarn);
  EXPECT_EQ(c.rope.mscale_all_dim, 1.0);
  EXPECT_EQ(c.rope.beta_fast, 1.0);  // what the file leaves out
  EXPECT_EQ(c.eos_token_ids, std::vector<std::uint32_t>{163586});
  EXPECT_TRUE(c.rope_interleaved);
  EXPECT_FALSE(description->tied_head);
  EXPECT_EQ(describe(kimi_k2("Kimi-K2.5"))->config.rope.beta_fast, 32.0);
  EXPECT_EQ(describe(kimi_k2("Kimi K2.6"))->config.rope.beta_fast, 32.0);
  EXPECT_EQ(describe(kimi_k2("Kimi K2 Thinking"))->config.rope.beta_fast, 1.0);
}

GgufBuilder deepseek(std::uint32_t experts, std::uint32_t gating) {
  GgufBuilder file = common("deepseek2");
  file.count("deepseek2.block_count", 27).count("deepseek2.feed_forward_length", 10944);
  file.count("deepseek2.attention.head_count", 16).count("deepseek2.attention.kv_lora_rank", 512);
  file.count("deepseek2.attention.key_length", 192).count("deepseek2.attention.value_length", 128);
  file.count("deepseek2.rope.dimension_count", 64).count("deepseek2.vocab_size", 102400);
  file.count("deepseek2.expert_count", experts).count("deepseek2.expert_used_count", 6);
  file.count("deepseek2.expert_feed_forward_length", 1408);
  file.count("deepseek2.expert_gating_func", gating);
  return file;
}

// Older files keep kv_b whole, name no groups and, of V2, no scale.
TEST(GgufConfig, DeepSeek) {
  const auto lite = describe(deepseek(64, 1));
  ASSERT_TRUE(lite) << lite.error().message;
  EXPECT_EQ(lite->config.router, RouterKind::kSoftmaxGreedy);
  EXPECT_EQ(lite->config.q_lora_rank, 0u);
  EXPECT_EQ(lite->config.v_head_dim, 128u);
  EXPECT_FALSE(lite->config.norm_topk_prob);
  EXPECT_EQ(lite->config.routed_scaling_factor, 1.0f);
  EXPECT_TRUE(lite->tied_head);
  const auto v2 = describe(deepseek(160, 1));
  EXPECT_EQ(v2->config.router, RouterKind::kSoftmaxGroupLimited);
  EXPECT_EQ(v2->config.topk_group, 3u);
  const auto v3 = describe(deepseek(256, 2));
  EXPECT_EQ(v3->config.n_group, 8u);
  EXPECT_EQ(v3->config.topk_group, 4u);
}

GgufBuilder grouped(const std::string& arch) {
  GgufBuilder file = common(arch);
  file.count(arch + ".block_count", 47).count(arch + ".feed_forward_length", 10944);
  file.count(arch + ".attention.head_count", 96).count(arch + ".attention.head_count_kv", 8);
  file.count(arch + ".attention.key_length", 128).count(arch + ".vocab_size", 151552);
  file.count(arch + ".expert_count", 128).count(arch + ".expert_used_count", 8);
  file.count(arch + ".expert_feed_forward_length", 1408);
  file.number(arch + ".rope.freq_base", 1e6f);
  return file;
}

TEST(GgufConfig, Glm45Air) {
  GgufBuilder file = grouped("glm4moe");
  file.count("glm4moe.nextn_predict_layers", 1).count("glm4moe.rope.dimension_count", 64);
  file.count("glm4moe.expert_shared_count", 1).count("glm4moe.leading_dense_block_count", 1);
  file.flag("glm4moe.expert_weights_norm", true).tensor("blk.0.attn_q.bias", 0, {1}, "1234");
  const auto description = describe(file);
  ASSERT_TRUE(description) << description.error().message;
  const ModelConfig& c = description->config;
  EXPECT_EQ(c.n_layers, 46u);
  EXPECT_EQ(description->n_mtp_layers, 1u);
  EXPECT_EQ(c.qk_rope_head_dim, 64u);
  EXPECT_EQ(c.n_kv_heads, 8u);
  EXPECT_TRUE(c.attention_bias);
  EXPECT_FALSE(c.qk_norm);
  EXPECT_EQ(c.router, RouterKind::kSigmoidBiased);
}

TEST(GgufConfig, Qwen3AndMixtralAndGptOss) {
  const auto qwen = describe(grouped("qwen3moe"));
  ASSERT_TRUE(qwen) << qwen.error().message;
  EXPECT_TRUE(qwen->config.qk_norm);
  EXPECT_FALSE(qwen->config.rope_interleaved);
  const auto mixtral = describe(grouped("llama"));
  ASSERT_TRUE(mixtral) << mixtral.error().message;
  EXPECT_TRUE(mixtral->config.rope_interleaved);
  EXPECT_EQ(mixtral->moe_block, "mlp");
  GgufBuilder oss = grouped("gpt-oss");
  oss.count("gpt-oss.attention.sliding_window", 128).text("gpt-oss.rope.scaling.type", "yarn");
  oss.number("gpt-oss.rope.scaling.factor", 32.0f);
  oss.count("gpt-oss.rope.scaling.original_context_length", 4096);
  const auto gpt_oss = describe(oss);
  ASSERT_TRUE(gpt_oss) << gpt_oss.error().message;
  EXPECT_TRUE(gpt_oss->config.attention_sinks);
  EXPECT_FALSE(gpt_oss->config.rope.truncate);
  EXPECT_EQ(gpt_oss->config.sliding_layers.size(), 24u);
  EXPECT_EQ(gpt_oss->router_module, "gate");
}

TEST(GgufConfig, ErrorsNameFileAndKey) {
  EXPECT_EQ(describe(GgufBuilder().text("general.architecture", "qwen35moe")).error().message,
            "config.gguf: general.architecture: \"qwen35moe\", expected one of deepseek2, "
            "qwen3moe, glm4moe, gpt-oss, llama");
  EXPECT_EQ(describe(GgufBuilder().text("general.architecture", "llama")).error().message,
            "config.gguf: a dense model of architecture llama; conclave runs Mixture-of-Experts");
  GgufBuilder file = common("qwen3moe");
  EXPECT_EQ(describe(file).error().message,
            "config.gguf: qwen3moe.vocab_size: missing, expected a whole number");
  const std::pair<const char*, float> stretched[] = {{"rope.scaling.factor", 4.0f},
                                                     {"rope.scaling.yarn_attn_factor", 0.5f}};
  for (const auto& [key, value] : stretched) {
    GgufBuilder odd = grouped("qwen3moe");
    odd.number(std::string("qwen3moe.") + key, value);
    EXPECT_NE(describe(odd).error().message.find(key), std::string::npos);
  }
  GgufBuilder endless = grouped("qwen3moe");
  endless.number("qwen3moe.rope.scaling.attn_factor", std::numeric_limits<float>::infinity());
  EXPECT_NE(describe(endless).error().message.find("expected a finite number"), std::string::npos);
  GgufBuilder softmax = grouped("glm4moe");
  softmax.count("glm4moe.expert_gating_func", 1);
  EXPECT_EQ(describe(softmax).error().message,
            "config.gguf: glm4moe.expert_gating_func: expected 2 (sigmoid)");
  GgufBuilder other = grouped("qwen3moe");
  other.text("qwen3moe.rope.scaling.type", "linear");
  EXPECT_EQ(describe(other).error().message,
            "config.gguf: qwen3moe.rope.scaling.type: \"linear\", expected \"yarn\" or \"none\"");
}

}  // namespace
}  // namespace conclave::model
