// What one change of a cluster would gain: each is tried by planning the changed cluster again.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace conclave::plan {

// Beyond this many machines one plan takes too long to be made ten times over.
inline constexpr std::size_t kExploredMachinesMax = 64;
inline constexpr std::size_t kImprovementsMax = 4;
inline constexpr double kGainMin = 1.03;  // below 3 % a change is within the model's error

// The prediction of the best placement; none when nothing fits.
std::optional<Prediction> best_prediction(const Cluster& cluster);

// Changes that gain at least kGainMin over `prediction`, best first, at most kImprovementsMax.
// Pools above kExploredMachinesMax: only changes that keep the placement as it is.
std::vector<Improvement> improvements_of(const Cluster& cluster, const Placement& placement,
                                         const Prediction& prediction);

// "12 us", "1.4 ms"
std::string duration_text(double seconds);

}  // namespace conclave::plan
