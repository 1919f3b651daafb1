#include <gtest/gtest.h>

#include <cmath>

#include "backend/cpu/feed_forward.h"

namespace conclave::backend {
namespace {

struct Choice {
  std::vector<ExpertId> ids;
  std::vector<float> weights;
};

Choice choose(const model::ModelConfig& config, std::vector<float> logits, std::vector<float> bias,
              std::vector<ExpertId> forced = {}) {
  Choice choice;
  choice.ids.resize(config.experts_per_token);
  choice.weights.resize(config.experts_per_token);
  choose_experts(config, kernels::operations(kernels::Isa::kScalar), logits, bias, forced,
                 {choice.ids, choice.weights});
  return choice;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// The vector of docs/models.md 2.6: the bias chooses, the unbiased sigmoid weighs.
TEST(Router, BiasSelectsAndUnbiasedScoresWeigh) {
  model::ModelConfig config;
  config.n_experts = 4;
  config.experts_per_token = 2;
  config.routed_scaling_factor = 2.827f;
  const Choice choice = choose(config, {4, 3, 2, 1}, {-10, 0, 0, 10});
  EXPECT_EQ(choice.ids, (std::vector<ExpertId>{{1}, {3}}));
  const double sum = sigmoid(1) + sigmoid(3);
  EXPECT_NEAR(choice.weights[0], sigmoid(3) / sum * 2.827, 1e-6);
  EXPECT_NEAR(choice.weights[1], sigmoid(1) / sum * 2.827, 1e-6);
}

// The group with the best single expert loses against one with two good ones; and an expert of a
// losing group is never taken even where all kept scores are negative.
TEST(Router, V3GroupsCountTheirTwoBest) {
  model::ModelConfig config;
  config.n_experts = 6;
  config.experts_per_token = 2;
  config.n_group = 3;
  config.topk_group = 1;
  const Choice choice = choose(config, {3, -9, 2, 2, 0, 0}, {0, 0, 0, 0, 0, 0});
  EXPECT_EQ(choice.ids, (std::vector<ExpertId>{{2}, {3}}));
  const Choice negative = choose(config, {0, 0, 2, 2, 0, 0}, {-9, -9, -5, -5, -9, -9});
  EXPECT_EQ(negative.ids, (std::vector<ExpertId>{{2}, {3}}));
}

TEST(Router, V2GroupsCountTheirBestAndScaleWithoutNormalising) {
  model::ModelConfig config;
  config.router = model::RouterKind::kSoftmaxGroupLimited;
  config.n_experts = 4;
  config.experts_per_token = 2;
  config.n_group = 2;
  config.topk_group = 1;
  config.norm_topk_prob = false;
  config.routed_scaling_factor = 16.0f;
  const Choice choice = choose(config, {3, -9, 2, 2}, {0, 0, 0, 0});
  EXPECT_EQ(choice.ids, (std::vector<ExpertId>{{0}, {1}}));
  const double sum = std::exp(3) + std::exp(-9) + 2 * std::exp(2);
  EXPECT_NEAR(choice.weights[0], 16.0 * std::exp(3) / sum, 1e-5);
}

TEST(Router, TiesGoToTheLowerId) {
  model::ModelConfig config;
  config.n_experts = 5;
  config.experts_per_token = 2;
  EXPECT_EQ(choose(config, {1, 1, 1, 1, 1}, {0, 0, 0, 0, 0}).ids,
            (std::vector<ExpertId>{{0}, {1}}));
}

TEST(Router, ForcedExpertsGetTheirOwnWeights) {
  model::ModelConfig config;
  config.n_experts = 4;
  config.experts_per_token = 2;
  const Choice choice = choose(config, {4, 3, 2, 1}, {0, 0, 0, 0}, {{3}, {2}});
  EXPECT_EQ(choice.ids, (std::vector<ExpertId>{{2}, {3}}));
  EXPECT_NEAR(choice.weights[0], sigmoid(2) / (sigmoid(1) + sigmoid(2)), 1e-6);
}

}  // namespace
}  // namespace conclave::backend
