#include "plan/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/rng.h"

namespace conclave::plan {
namespace {

constexpr std::uint64_t kSeed = 0x5eedULL;
constexpr std::size_t kDraws = 2000;      // layers sampled for a few tokens,
constexpr std::size_t kBatchDraws = 250;  // and for a batch, where they differ less
// From so many tokens on, whether an expert is used is drawn once for the batch; with fewer, that
// each token chooses exactly experts_per_token matters.
constexpr std::size_t kTokensDrawnMax = 4;

// Draws `experts_per_token` distinct experts by weight (Efraimidis and Spirakis, "Weighted random
// sampling with a reservoir", 2006): the largest log(u) / weight win.
class ExpertDraw {
 public:
  ExpertDraw(const Architecture& architecture, double zipf)
      : uniform_(zipf == 0.0),
        n_chosen_(architecture.experts_per_token),
        order_(architecture.n_experts),
        keys_(architecture.n_experts),
        weights_(architecture.n_experts) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    for (std::size_t e = 0; e < weights_.size(); ++e) {
      weights_[e] = std::pow(static_cast<double>(e + 1), -zipf);
    }
  }

  // The first `experts_per_token` entries of the result are the choice.
  const std::vector<std::size_t>& next(SplitMix& rng) {
    if (uniform_) {
      for (std::size_t i = 0; i < n_chosen_; ++i) {
        const std::size_t j = i + rng.next() % (order_.size() - i);
        std::swap(order_[i], order_[j]);
      }
      return order_;
    }
    for (std::size_t e = 0; e < keys_.size(); ++e) keys_[e] = std::log(rng.uniform()) / weights_[e];
    std::nth_element(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(n_chosen_ - 1),
                     order_.end(),
                     [this](std::size_t a, std::size_t b) { return keys_[a] > keys_[b]; });
    return order_;
  }

 private:
  bool uniform_;
  std::size_t n_chosen_;
  std::vector<std::size_t> order_;
  std::vector<double> keys_;
  std::vector<double> weights_;
};

// The probability that any of the batch's tokens chooses expert e.
std::vector<double> batch_probabilities(const Architecture& a, const ExpertSpread& spread) {
  std::vector<double> p = choice_probabilities(a, spread.zipf);
  for (double& one : p) {
    one = one >= 1.0 ? 1.0 : -std::expm1(static_cast<double>(spread.tokens) * std::log1p(-one));
  }
  return p;
}

// Experts are dealt to ranks in a shuffled order; copies go to the following ranks.
std::size_t holder(std::size_t dealt, std::size_t copy, std::size_t n_ranks) {
  return (dealt + copy * (1 + dealt / n_ranks % (n_ranks - 1))) % n_ranks;
}

}  // namespace

std::vector<double> choice_probabilities(const Architecture& a, double zipf) {
  const std::size_t n = a.n_experts;
  const double wanted = static_cast<double>(a.experts_per_token);
  std::vector<double> weights(n);
  for (std::size_t e = 0; e < n; ++e) weights[e] = std::pow(static_cast<double>(e + 1), -zipf);
  std::vector<double> chosen(n, wanted / static_cast<double>(n));
  if (zipf == 0.0 || a.experts_per_token == n) return chosen;
  // Inclusion is about 1 - exp(-t w): find the t at which they sum to experts_per_token.
  double low = 0.0;
  double high = 1.0;
  const auto sum_at = [&](double t) {
    double sum = 0.0;
    for (std::size_t e = 0; e < n; ++e) sum += chosen[e] = -std::expm1(-t * weights[e]);
    return sum;
  };
  while (sum_at(high) < wanted && high < 1e12) high *= 2.0;
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (low + high);
    (sum_at(middle) < wanted ? low : high) = middle;
  }
  sum_at(high);
  return chosen;
}

double distinct_experts(const Architecture& a, std::size_t tokens, double zipf) {
  const double n = static_cast<double>(a.n_experts);
  const double rows = static_cast<double>(tokens);
  if (zipf == 0.0) {
    return n * -std::expm1(rows * std::log1p(-static_cast<double>(a.experts_per_token) / n));
  }
  double sum = 0.0;
  for (const double p : choice_probabilities(a, zipf)) {
    sum += p >= 1.0 ? 1.0 : -std::expm1(rows * std::log1p(-p));
  }
  return sum;
}

double expert_imbalance(const Architecture& a, const ExpertSpread& spread) {
  CHECK(spread.n_ranks > 0 && spread.tokens > 0);
  const std::size_t copies = std::min(spread.copies, spread.n_ranks);
  if (spread.n_ranks == 1 || copies == spread.n_ranks) return 1.0;
  SplitMix rng(kSeed);
  ExpertDraw draw(a, spread.zipf);
  const bool by_token = spread.tokens < kTokensDrawnMax;
  const std::size_t n_draws = by_token ? kDraws : kBatchDraws;
  const std::vector<double> chosen_by_any =
      by_token ? std::vector<double>() : batch_probabilities(a, spread);
  std::vector<std::size_t> dealt(a.n_experts);
  std::vector<std::uint8_t> used(a.n_experts);
  std::vector<std::size_t> load(spread.n_ranks);
  double sum_max = 0.0;
  double sum_mean = 0.0;
  for (std::size_t d = 0; d < n_draws; ++d) {
    std::iota(dealt.begin(), dealt.end(), std::size_t{0});
    for (std::size_t i = dealt.size(); i-- > 1;) std::swap(dealt[i], dealt[rng.next() % (i + 1)]);
    std::fill(used.begin(), used.end(), std::uint8_t{0});
    std::fill(load.begin(), load.end(), std::size_t{0});
    std::size_t n_used = 0;
    const auto use = [&](std::size_t expert) {
      if (used[expert] != 0) return;
      used[expert] = 1;
      ++n_used;
      std::size_t best = holder(dealt[expert], 0, spread.n_ranks);
      for (std::size_t c = 1; c < copies; ++c) {
        const std::size_t other = holder(dealt[expert], c, spread.n_ranks);
        if (load[other] < load[best]) best = other;
      }
      ++load[best];
    };
    for (std::size_t t = 0; by_token && t < spread.tokens; ++t) {
      const std::vector<std::size_t>& chosen = draw.next(rng);
      for (std::size_t k = 0; k < a.experts_per_token; ++k) use(chosen[k]);
    }
    for (std::size_t e = 0; e < chosen_by_any.size(); ++e) {
      if (rng.uniform() < chosen_by_any[e]) use(e);
    }
    sum_max += static_cast<double>(*std::max_element(load.begin(), load.end()));
    sum_mean += static_cast<double>(n_used) / static_cast<double>(spread.n_ranks);
  }
  return std::max(1.0, sum_max / sum_mean);
}

}  // namespace conclave::plan
