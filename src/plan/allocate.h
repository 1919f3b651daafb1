// Dealing equal units to unequal machines.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace conclave::plan {

// Deals `n_units` so that max over i of finish(i, units[i]) is least, with units[i] <= caps[i].
// `finish(i, u)` must not fall as u grows. Giving each unit to whoever would then finish first is
// optimal: below any finish time T each machine can hold a fixed number of units, and units go to
// the least T first. So a machine that becomes faster never makes the result slower.
// Nothing when the caps are too small.
std::optional<std::vector<std::size_t>> deal_units(
    std::size_t n_units, std::span<const std::size_t> caps,
    const std::function<double(std::size_t machine, std::size_t units)>& finish);

// One stage of a pipeline.
struct StageCost {
  double per_layer = 0.0;  // seconds
  double fixed = 0.0;      // besides its layers: a hop, the head
  std::size_t layers_max = 0;
};
// Deals at least one layer to each stage so that `n_groups` groups of rows that follow each other
// come round soonest: the least max(sum of stages, n_groups * slowest stage). Nothing when the
// layers do not fit, or there are fewer layers than stages.
std::optional<std::vector<std::size_t>> deal_layers(std::size_t n_layers, std::size_t n_groups,
                                                    std::span<const StageCost> stages);

}  // namespace conclave::plan
