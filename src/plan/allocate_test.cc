#include "plan/allocate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "base/rng.h"

namespace conclave::plan {
namespace {

using Units = std::vector<std::size_t>;

// Every way to deal `n_units` over the caps.
void for_all_deals(std::size_t n_units, const Units& caps,
                   const std::function<void(const Units&)>& visit) {
  Units units(caps.size(), 0);
  const std::function<void(std::size_t, std::size_t)> go = [&](std::size_t i, std::size_t left) {
    if (i == caps.size()) {
      if (left == 0) visit(units);
      return;
    }
    for (std::size_t u = 0; u <= std::min(left, caps[i]); ++u) {
      units[i] = u;
      go(i + 1, left - u);
    }
    units[i] = 0;
  };
  go(0, n_units);
}

double slowest(const Units& units, const std::vector<double>& cost) {
  double most = 0.0;
  for (std::size_t i = 0; i < units.size(); ++i) {
    if (units[i] > 0)
      most = std::max(most, 0.3 * cost[i] + cost[i] * static_cast<double>(units[i]));
  }
  return most;
}

TEST(DealUnits, IsTheBestOfAllWays) {
  SplitMix random(1);
  for (int i = 0; i < 300; ++i) {
    std::vector<double> cost(3);
    Units caps(3);
    for (std::size_t m = 0; m < 3; ++m) {
      cost[m] = 0.1 + random.uniform();
      caps[m] = random.next() % 9;
    }
    const std::size_t n_units = 1 + random.next() % 12;
    const auto dealt = deal_units(n_units, caps, [&cost](std::size_t m, std::size_t u) {
      return 0.3 * cost[m] + cost[m] * static_cast<double>(u);
    });
    double best = std::numeric_limits<double>::infinity();
    for_all_deals(n_units, caps,
                  [&](const Units& units) { best = std::min(best, slowest(units, cost)); });
    ASSERT_EQ(dealt.has_value(), std::isfinite(best));
    if (!dealt) continue;
    EXPECT_EQ(std::accumulate(dealt->begin(), dealt->end(), std::size_t{0}), n_units);
    EXPECT_DOUBLE_EQ(slowest(*dealt, cost), best);
  }
}

TEST(DealUnits, FollowsSpeed) {
  const Units caps = {64, 64, 64};
  const std::vector<double> cost = {1.0, 0.5, 0.25};
  const auto dealt = deal_units(
      63, caps, [&cost](std::size_t m, std::size_t u) { return cost[m] * static_cast<double>(u); });
  EXPECT_EQ(*dealt, (Units{9, 18, 36}));
}

double round_seconds(const Units& layers, std::span<const StageCost> stages, std::size_t n_groups) {
  double sum = 0.0;
  double most = 0.0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const double stage = stages[i].fixed + stages[i].per_layer * static_cast<double>(layers[i]);
    sum += stage;
    most = std::max(most, stage);
  }
  return std::max(sum, static_cast<double>(n_groups) * most);
}

TEST(DealLayers, IsTheBestOfAllWays) {
  SplitMix random(2);
  for (int i = 0; i < 300; ++i) {
    std::vector<StageCost> stages(3);
    Units caps(3);
    for (std::size_t m = 0; m < 3; ++m) {
      caps[m] = random.next() % 9;
      stages[m] = {.per_layer = 0.1 + random.uniform(),
                   .fixed = 0.5 * random.uniform(),
                   .layers_max = caps[m]};
    }
    const std::size_t n_layers = 3 + random.next() % 12;
    const std::size_t n_groups = 1 + random.next() % 4;
    const auto dealt = deal_layers(n_layers, n_groups, stages);
    double best = std::numeric_limits<double>::infinity();
    for_all_deals(n_layers, caps, [&](const Units& layers) {
      if (std::ranges::find(layers, 0u) != layers.end()) return;
      best = std::min(best, round_seconds(layers, stages, n_groups));
    });
    ASSERT_EQ(dealt.has_value(), std::isfinite(best)) << i;
    if (dealt) {
      EXPECT_NEAR(round_seconds(*dealt, stages, n_groups) / best, 1.0, 1e-6) << i;
    }
  }
}

}  // namespace
}  // namespace conclave::plan
