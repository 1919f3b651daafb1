// What a rank's slice takes in memory. docs/models.md 10, docs/design.md 3.
#pragma once

#include "plan/placement.h"

namespace conclave::plan {

// The whole part as this software keeps it.
double kept_bytes(const Cluster& cluster, Part part);
// KV reserve of the whole model, all streams together.
double kv_reserve_bytes(const Cluster& cluster);

// Weights of the rank's slice; `is_first`: rank 0, which holds the embedding.
double rank_weight_bytes(const Cluster& cluster, const Placement& placement, const Rank& rank,
                         bool is_first);
double rank_kv_bytes(const Cluster& cluster, const Placement& placement, const Rank& rank);

// Fills weight, KV, backup and free bytes, shares and losses_survived. False when a rank's weights
// and KV do not fit.
bool account_memory(const Cluster& cluster, Placement& placement);

}  // namespace conclave::plan
