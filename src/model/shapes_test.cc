#include "model/shapes.h"

#include <gtest/gtest.h>

#include "model/names.h"

namespace conclave::model {
namespace {

// The text parameters of Kimi K2, which its publisher rounds to 1.04 T. docs/models.md 1.1.
TEST(Shapes, KimiK2HasTheKnownNumberOfParameters) {
  ModelConfig config;
  config.vocab_size = 163840;
  config.hidden_size = 7168;
  config.n_layers = 61;
  config.n_dense_layers = 1;
  config.intermediate_size = 18432;
  config.moe_intermediate_size = 2048;
  config.n_experts = 384;
  config.n_shared_experts = 1;
  config.n_heads = 64;
  config.q_lora_rank = 1536;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 128;

  std::size_t total = 2 * config.vocab_size * config.hidden_size + config.hidden_size;
  for (std::uint16_t i = 0; i < config.n_layers; ++i) {
    for (std::size_t w = 0; w < kWeights; ++w) {
      const auto weight = static_cast<Weight>(w);
      if (!layer_has(config, LayerId{i}, weight)) continue;
      const MatrixShape shape = shape_of(config, weight);
      total += shape.rows * shape.cols * (is_expert(weight) ? config.n_experts : 1);
    }
    for (const Norm norm : {Norm::kInput, Norm::kPostAttention, Norm::kQA, Norm::kKvA}) {
      total += norm_size(config, norm);
    }
    if (config.is_moe(LayerId{i})) total += config.n_experts;
  }
  EXPECT_EQ(total, 1'026'408'232'448u);
}

TEST(Shapes, WithoutQueryLoraThereIsOneQueryMatrix) {
  ModelConfig config;
  config.n_layers = 2;
  EXPECT_TRUE(layer_has(config, LayerId{0}, Weight::kQ));
  EXPECT_FALSE(layer_has(config, LayerId{0}, Weight::kQB));
  EXPECT_FALSE(layer_has(config, Norm::kQA));
  config.q_lora_rank = 8;
  EXPECT_FALSE(layer_has(config, LayerId{0}, Weight::kQ));
  EXPECT_TRUE(layer_has(config, Norm::kQA));
}

TEST(Shapes, SharedWeightsNeedSharedExperts) {
  ModelConfig config;
  config.n_layers = 1;
  EXPECT_FALSE(layer_has(config, LayerId{0}, Weight::kSharedUp));
  EXPECT_TRUE(layer_has(config, LayerId{0}, Weight::kExpertUp));
  config.n_shared_experts = 1;
  EXPECT_TRUE(layer_has(config, LayerId{0}, Weight::kSharedUp));
  config.n_dense_layers = 1;
  EXPECT_FALSE(layer_has(config, LayerId{0}, Weight::kSharedUp));
}

}  // namespace
}  // namespace conclave::model
