#include "apps/synth_model.h"

#include <gtest/gtest.h>

namespace conclave::apps {
namespace {

SynthRequest like(std::string family) {
  SynthRequest request;
  request.like = std::move(family);
  return request;
}

TEST(SynthModel, FamiliesHaveTheirPublishedSizes) {
  const model::ModelConfig kimi = synth_model(like("kimi-k2"))->config;
  EXPECT_EQ(kimi.n_layers, 61u);
  EXPECT_EQ(kimi.n_experts, 384u);
  EXPECT_EQ(kimi.n_heads, 64u);
  const model::ModelConfig deepseek = synth_model(like("deepseek-v3"))->config;
  EXPECT_EQ(deepseek.n_dense_layers, 3u);
  EXPECT_EQ(deepseek.n_group, 8u);
  EXPECT_EQ(deepseek.vocab_size, 129280u);
}

TEST(SynthModel, OfficialMeansAsTheFamilyShips) {
  EXPECT_EQ(synth_model(like("kimi-k2"))->quant, SynthQuant::kInt4);
  EXPECT_EQ(synth_model(like("deepseek-v3"))->quant, SynthQuant::kFp8);
  EXPECT_EQ(synth_model(like("ember"))->quant, SynthQuant::kInt4);
  EXPECT_EQ(synth_model(like("qwen3-30b"))->quant, SynthQuant::kBf16);
}

TEST(SynthModel, GroupedAttentionHasItsOwnFields) {
  SynthRequest request;
  request.preset = "m3";
  const Result<SynthModel> model = synth_model(request);
  ASSERT_TRUE(model) << model.error().message;
  const auto read = model::parse_config(config_json(*model).dump(), "config.json");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->n_kv_heads, 4u);
  EXPECT_EQ(read->n_layers, 24u);
  EXPECT_EQ(read->n_moe_layers(), 24u);
  EXPECT_TRUE(read->qk_norm);
}

TEST(SynthModel, FlagsChangeAPreset) {
  SynthRequest request;
  request.preset = "m2";
  request.experts = 16;
  const Result<SynthModel> model = synth_model(request);
  ASSERT_TRUE(model);
  EXPECT_EQ(model->config.n_layers, 3u);
  EXPECT_EQ(model->config.n_dense_layers, 0u);
  EXPECT_EQ(model->config.n_experts, 16u);
  EXPECT_EQ(model->config.vocab_size, 8192u);
}

TEST(SynthModel, RefusesWhatCannotBe) {
  SynthRequest few_experts = like("ember");
  few_experts.experts = 3;
  EXPECT_FALSE(synth_model(few_experts));
  SynthRequest uneven = like("deepseek-v3");
  uneven.experts = 100;  // 8 groups
  EXPECT_FALSE(synth_model(uneven));
  SynthRequest dense = like("ember");
  dense.dense = 9;
  EXPECT_FALSE(synth_model(dense));
  SynthRequest small = like("ember");
  small.vocab = 511;
  EXPECT_FALSE(synth_model(small));
  EXPECT_FALSE(synth_model(SynthRequest{}));
  SynthRequest no_preset;
  no_preset.preset = "m4";
  const Result<SynthModel> refused = synth_model(no_preset);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidInput);
}

TEST(ConfigJson, ReadsBackAsTheSameModel) {
  for (const char* family : {"kimi-k2", "deepseek-v3", "ember"}) {
    const SynthModel model = *synth_model(like(family));
    const model::ModelConfig read = *model::parse_config(config_json(model).dump(), family);
    EXPECT_EQ(read.n_layers, model.config.n_layers);
    EXPECT_EQ(read.routed_scaling_factor, model.config.routed_scaling_factor);
    EXPECT_EQ(read.rms_norm_eps, model.config.rms_norm_eps);
    EXPECT_EQ(read.rope.beta_fast, model.config.rope.beta_fast);
    EXPECT_EQ(read.rope.factor, model.config.rope.factor);
    EXPECT_EQ(read.rope.theta, model.config.rope.theta);
    EXPECT_EQ(read.max_positions, model.config.max_positions);
    EXPECT_EQ(read.n_group, model.config.n_group);
  }
}

}  // namespace
}  // namespace conclave::apps
