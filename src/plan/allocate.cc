#include "plan/allocate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>

#include "base/check.h"

namespace conclave::plan {
namespace {

bool room_for(std::size_t n_units, std::span<const std::size_t> caps) {
  std::size_t room = 0;
  for (const std::size_t cap : caps) {
    if (cap >= n_units - std::min(room, n_units)) return true;
    room += cap;
  }
  return room >= n_units;
}

// Fills the cheapest stages first, each as far as a round of `seconds` allows; nothing if the round
// then takes longer.
std::optional<std::vector<std::size_t>> fill_within(std::size_t n_layers, std::size_t n_groups,
                                                    std::span<const StageCost> stages,
                                                    std::span<const std::size_t> order,
                                                    double seconds) {
  std::vector<std::size_t> layers(stages.size(), 1);
  if (n_layers < stages.size()) return std::nullopt;
  std::size_t left = n_layers - stages.size();
  double sum = 0.0;
  for (const std::size_t i : order) {
    const StageCost& stage = stages[i];
    const double stage_seconds = seconds / static_cast<double>(n_groups) - stage.fixed;
    const double most = std::floor(stage_seconds / stage.per_layer + 1e-9);
    if (stage.layers_max == 0 || !(most >= 1.0)) return std::nullopt;
    const std::size_t cap = most < static_cast<double>(stage.layers_max)
                                ? static_cast<std::size_t>(most)
                                : stage.layers_max;
    const std::size_t more = std::min(left, cap - 1);
    layers[i] += more;
    left -= more;
    sum += stage.fixed + stage.per_layer * static_cast<double>(layers[i]);
  }
  if (left > 0 || sum > seconds * (1.0 + 1e-9)) return std::nullopt;
  return layers;
}

}  // namespace

std::optional<std::vector<std::size_t>> deal_units(
    std::size_t n_units, std::span<const std::size_t> caps,
    const std::function<double(std::size_t machine, std::size_t units)>& finish) {
  if (!room_for(n_units, caps)) return std::nullopt;
  struct Offer {
    double finish;
    std::size_t machine;
    // The earlier machine wins ties, so that equal machines get equal layouts in every run.
    bool operator<(const Offer& other) const {
      return finish != other.finish ? finish > other.finish : machine > other.machine;
    }
  };
  std::vector<Offer> offers;
  offers.reserve(caps.size());
  for (std::size_t i = 0; i < caps.size(); ++i) {
    if (caps[i] > 0) offers.push_back({finish(i, 1), i});
  }
  std::priority_queue<Offer> queue(std::less<Offer>(), std::move(offers));
  std::vector<std::size_t> units(caps.size(), 0);
  for (std::size_t dealt = 0; dealt < n_units; ++dealt) {
    CHECK(!queue.empty());
    const std::size_t machine = queue.top().machine;
    queue.pop();
    if (++units[machine] < caps[machine]) {
      queue.push({finish(machine, units[machine] + 1), machine});
    }
  }
  return units;
}

std::optional<std::vector<std::size_t>> deal_layers(std::size_t n_layers, std::size_t n_groups,
                                                    std::span<const StageCost> stages) {
  std::vector<std::size_t> order(stages.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [stages](std::size_t a, std::size_t b) {
    return stages[a].per_layer < stages[b].per_layer;
  });
  // The least round is at most `high`: all layers one after the other, once per group.
  double low = 0.0;
  double high = 0.0;
  for (const StageCost& stage : stages) {
    high += static_cast<double>(n_groups) *
            (stage.fixed + stage.per_layer * static_cast<double>(n_layers));
  }
  auto best = fill_within(n_layers, n_groups, stages, order, high);
  constexpr int kHalvings = 60;
  for (int i = 0; best && i < kHalvings; ++i) {
    const double middle = 0.5 * (low + high);
    if (auto tried = fill_within(n_layers, n_groups, stages, order, middle)) {
      best = std::move(tried);
      high = middle;
    } else {
      low = middle;
    }
  }
  return best;
}

}  // namespace conclave::plan
