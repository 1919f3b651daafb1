#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "model/model.h"

namespace conclave::model {
namespace {

constexpr std::array<std::size_t, 9> kDimensions = {0, 8, 9, 12, 14, 19, 20, 24, 31};

ModelConfig with_rope(double theta, double factor, double beta_fast) {
  ModelConfig config;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.rope.theta = theta;
  config.rope.yarn = true;
  config.rope.factor = factor;
  config.rope.beta_fast = beta_fast;
  config.rope.mscale_all_dim = 1.0;
  return config;
}

void expect_frequencies(const ModelConfig& config, const std::array<double, 9>& expected) {
  const RopeTable table = rope_table(config);
  ASSERT_EQ(table.inv_freq.size(), 32u);
  for (std::size_t i = 0; i < kDimensions.size(); ++i) {
    EXPECT_NEAR(table.inv_freq[kDimensions[i]] / expected[i], 1.0, 5e-9) << kDimensions[i];
  }
}

TEST(Rope, K2Instruct) {
  const ModelConfig config = with_rope(5e4, 32, 1);
  expect_frequencies(config, {1, .0668740305, .0476886124, .0172936334, .00879428677, .00162175991,
                              3.61404677e-5, 9.34592988e-6, 8.76441291e-7});
  EXPECT_NEAR(rope_table(config).softmax_scale, 0.1308607998, 1e-9);
}

TEST(Rope, K2Thinking) {
  const ModelConfig config = with_rope(5e4, 64, 1);
  expect_frequencies(config, {1, .0668740305, .0476886124, .0172936334, .00879428677, .00162175991,
                              1.80702339e-5, 4.67296494e-6, 4.38220646e-7});
  EXPECT_NEAR(rope_table(config).softmax_scale, 0.1446796258, 1e-9);
  EXPECT_EQ(rope_table(config).rotation_scale, 1.0);
}

TEST(Rope, K25) {
  expect_frequencies(with_rope(5e4, 64, 32),
                     {1, .0668740305, .043776656, .0116191599, .00446584875, .000158374991,
                      1.80702339e-5, 4.67296494e-6, 4.38220646e-7});
}

TEST(Rope, DeepseekV3) {
  const ModelConfig config = with_rope(1e4, 40, 32);
  expect_frequencies(config, {1, .1, .0749894209, .0268793601, .0124479559, .00137051364,
                              .000790569415, 2.5e-5, 3.33380358e-6});
  EXPECT_NEAR(rope_table(config).softmax_scale, 0.1352337789, 1e-9);
}

TEST(Rope, V2LiteSoftmaxScale) {
  ModelConfig config = with_rope(1e4, 40, 32);
  config.rope.mscale = config.rope.mscale_all_dim = 0.707;
  EXPECT_NEAR(rope_table(config).softmax_scale, 0.1147213868, 1e-9);
  EXPECT_EQ(rope_table(config).rotation_scale, 1.0);
}

TEST(Rope, WithoutMscalesTheRotationIsScaled) {
  ModelConfig config = with_rope(1.5e5, 32, 32);
  config.rope.mscale_all_dim = 0.0;
  EXPECT_NEAR(rope_table(config).rotation_scale, 1.3465736, 1e-7);
  EXPECT_NEAR(rope_table(config).softmax_scale, 0.0721687836, 1e-9);
  config.rope.attention_factor = 1.25;
  EXPECT_EQ(rope_table(config).rotation_scale, 1.25);
}

// f(32) = 8.09278 and f(1) = 17.39802 are used as they are.
TEST(Rope, WithoutTruncationTheRampHasFractionalEnds) {
  ModelConfig config = with_rope(1.5e5, 32, 32);
  config.rope.truncate = false;
  const double plain = std::pow(1.5e5, -2.0 * 12 / 64);
  const double ramp = (12 - 8.09278) / (17.39802 - 8.09278);
  EXPECT_NEAR(rope_table(config).inv_freq[12] / (plain / 32 * ramp + plain * (1 - ramp)), 1.0,
              1e-5);
}

TEST(Rope, PlainRopeHasNoFactors) {
  ModelConfig config = with_rope(5e4, 1, 32);
  config.rope = {};
  config.rope.theta = 5e4;
  const RopeTable table = rope_table(config);
  EXPECT_NEAR(table.inv_freq[8], .0668740305, 1e-9);
  EXPECT_EQ(table.rotation_scale, 1.0);
  EXPECT_NEAR(table.softmax_scale, 0.0721687836, 1e-9);
}

}  // namespace
}  // namespace conclave::model
