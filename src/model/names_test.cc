#include "model/names.h"

#include <gtest/gtest.h>

namespace conclave::model {
namespace {

Description kimi(std::size_t n_mtp_layers) {
  Description description;
  description.config.n_layers = 61;
  description.n_mtp_layers = n_mtp_layers;
  return description;
}

TEST(Names, FollowTheOfficialFiles) {
  Description description = kimi(0);
  EXPECT_EQ(linear_name(description, LayerId{3}, Weight::kKvA),
            "model.layers.3.self_attn.kv_a_proj_with_mqa");
  EXPECT_EQ(linear_name(description, LayerId{3}, Weight::kRouter), "model.layers.3.mlp.gate");
  EXPECT_EQ(linear_name(description, LayerId{0}, Weight::kGate), "model.layers.0.mlp.gate_proj");
  EXPECT_EQ(linear_name(description, LayerId{3}, Weight::kSharedDown),
            "model.layers.3.mlp.shared_experts.down_proj");
  EXPECT_EQ(norm_name(description, LayerId{60}, Norm::kQA),
            "model.layers.60.self_attn.q_a_layernorm.weight");
  description.tensor_prefix = "language_model.";
  EXPECT_EQ(linear_name(description, LayerId{3}, Weight::kExpertDown, ExpertId{383}),
            "language_model.model.layers.3.mlp.experts.383.down_proj");
  EXPECT_EQ(linear_name(description, {}, Weight::kHead), "language_model.lm_head");
  EXPECT_EQ(norm_name(description, {}, Norm::kFinal), "language_model.model.norm.weight");
}

TEST(Names, MtpLayersAreCountedNotMatchedByPrefix) {
  const Description description = kimi(1);
  EXPECT_TRUE(is_ignored(description, "model.layers.61.eh_proj.weight"));
  EXPECT_FALSE(is_ignored(description, "model.layers.62.eh_proj.weight"));
  EXPECT_FALSE(is_ignored(description, "model.layers.610.eh_proj.weight"));
  EXPECT_FALSE(is_ignored(description, "model.layers.061.eh_proj.weight"));
  EXPECT_FALSE(is_ignored(description, "model.layers.60.eh_proj.weight"));
  EXPECT_FALSE(is_ignored(description, "model.layers.61"));
  EXPECT_FALSE(is_ignored(description, "model.layers.99999999999999999999999.x"));
  EXPECT_FALSE(is_ignored(kimi(0), "model.layers.61.eh_proj.weight"));
}

TEST(Names, InvFreqAndVision) {
  Description description = kimi(0);
  EXPECT_TRUE(is_ignored(description, "model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_TRUE(is_ignored(description, "model.rotary_emb.inv_freq"));
  EXPECT_FALSE(is_ignored(description, "inv_freq"));
  EXPECT_FALSE(is_ignored(description, "vision_tower.x"));
  description.has_vision = true;
  EXPECT_TRUE(is_ignored(description, "vision_tower.x"));
  EXPECT_FALSE(is_ignored(description, "vision_towers.x"));
}

}  // namespace
}  // namespace conclave::model
