// Monte Carlo figures of docs/perf-model.md 3.1: 8 of 384 experts over N ranks.
#include "plan/experts.h"

#include <gtest/gtest.h>

#include <numeric>

namespace conclave::plan {
namespace {

Architecture kimi() {
  Architecture a;
  a.n_experts = 384;
  a.experts_per_token = 8;
  return a;
}

TEST(Experts, OneTokenOverNRanks) {
  const std::pair<std::size_t, double> rows[] = {
      {2, 1.27}, {3, 1.52}, {4, 1.76}, {6, 2.17}, {8, 2.57}};
  for (const auto& [n, imbalance] : rows) {
    EXPECT_NEAR(expert_imbalance(kimi(), {.n_ranks = n}) / imbalance, 1.0, 0.025) << n;
  }
  EXPECT_EQ(expert_imbalance(kimi(), {.n_ranks = 1}), 1.0);
}

TEST(Experts, BatchesLevelOut) {
  const std::pair<std::size_t, double> rows[] = {{2, 1.51}, {8, 1.24}, {32, 1.10}, {128, 1.03}};
  for (const auto& [tokens, imbalance] : rows) {
    EXPECT_NEAR(expert_imbalance(kimi(), {.n_ranks = 4, .tokens = tokens}), imbalance, 0.03)
        << tokens;
  }
}

TEST(Experts, ASecondCopyHelps) {
  EXPECT_NEAR(expert_imbalance(kimi(), {.n_ranks = 4, .copies = 2}), 1.32, 0.12);
  EXPECT_EQ(expert_imbalance(kimi(), {.n_ranks = 4, .copies = 4}), 1.0);
}

TEST(Experts, TheSameQuestionHasTheSameAnswer) {
  const ExpertSpread spread{.n_ranks = 5, .tokens = 3, .copies = 2, .zipf = 0.8};
  EXPECT_EQ(expert_imbalance(kimi(), spread), expert_imbalance(kimi(), spread));
}

TEST(Experts, ProbabilitiesSumToTheExpertsOfAToken) {
  for (const double zipf : {0.0, 0.5, 1.0, 2.0}) {
    const std::vector<double> p = choice_probabilities(kimi(), zipf);
    EXPECT_NEAR(std::accumulate(p.begin(), p.end(), 0.0), 8.0, 1e-6) << zipf;
    EXPECT_GE(p.front(), p.back());
    EXPECT_LE(p.front(), 1.0);
  }
}

}  // namespace
}  // namespace conclave::plan
