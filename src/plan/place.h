// The two ways of dividing a model. Private to the planner; `place` in plan.h chooses.
#pragma once

#include <optional>
#include <span>

#include "plan/placement.h"

namespace conclave::plan {

// What a division into slices keeps once on every rank, and what it splits; bytes.
struct SliceBytes {
  double replicated = 0.0;
  double split = 0.0;
};
SliceBytes slice_bytes(const Cluster& cluster, const Placement& placement);

// Nothing: does not fit. `attention_replicated` is of use for kExpert; the others imply it.
std::optional<Placement> place_slices(const Cluster& cluster, Strategy strategy,
                                      bool attention_replicated,
                                      std::span<const std::size_t> members);
std::optional<Placement> place_pipeline(const Cluster& cluster,
                                        std::span<const std::size_t> members);

}  // namespace conclave::plan
