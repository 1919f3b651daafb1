// How unevenly tokens choose experts. docs/perf-model.md 3.1.
#pragma once

#include <cstddef>
#include <vector>

#include "plan/shape.h"

namespace conclave::plan {

// The probability that one token chooses expert e, [n_experts], summing to experts_per_token;
// popularity falls as 1 / rank^zipf.
std::vector<double> choice_probabilities(const Architecture& architecture, double zipf);

// How whole experts lie on equal ranks.
struct ExpertSpread {
  std::size_t n_ranks = 1;
  std::size_t tokens = 1;
  std::size_t copies = 1;  // ranks that hold each expert
  double zipf = 0.0;
};
// Distinct experts read by the busiest rank over the mean of all ranks, at least 1. Drawn with a
// fixed seed, so the same question has the same answer; 1 % of noise.
double expert_imbalance(const Architecture& architecture, const ExpertSpread& spread);

}  // namespace conclave::plan
