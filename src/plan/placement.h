// What is asked of a pool, and what each machine then holds. docs/design.md 3.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "plan/pool.h"
#include "plan/shape.h"

namespace conclave::plan {

struct Speculation {
  std::size_t draft_tokens = 0;  // k; 0: off
  double accepted = 1.0;         // tokens per step, the sure one included
  double expert_overlap = 0.0;   // of adjacent tokens, 0..1
  double draft_seconds = 0.0;    // per step
};

struct Workload {
  std::size_t batch = 1;              // streams decoded together
  std::size_t context = 512;          // tokens in each stream's cache while measured
  std::size_t prompt = 2048;          // for time to first token
  std::size_t reserve_tokens = 8192;  // KV memory kept, all streams together; >= batch * context
  double zipf = 0.0;                  // skew of expert popularity, 0: uniform
  Speculation speculation;
};

struct Policy {
  std::optional<Strategy> strategy;         // absent: the fastest that fits
  std::size_t expert_copies = 1;            // `expert`: ranks that hold each expert
  std::optional<bool> replicate_attention;  // `expert`: one round a layer, not two; absent: faster
  bool allow_uneven = false;                // plan slices that `equal_shares` software would refuse
  bool use_all_machines = false;            // else machines that only slow the answer are left out
  std::size_t cover_losses = 1;             // backups wanted when memory allows: 0 or 1
  double lifetime_years = 3.0;
  double utilisation = 1.0;
  double usd_per_kwh = 0.15;
};

struct Cluster {
  std::string name;
  Model model;
  Pool pool;
  Software software;
  Workload workload;
  Policy policy;
  std::optional<double> measured_tokens_per_second;  // of one stream (batch 1) or all
};
// Lets the model be kept as the software keeps it; after either has changed.
inline void adopt_software(Cluster& cluster) {
  cluster.model.architecture.whole_kv = cluster.software.whole_kv;
}
// All of the above together, and the ranges of workload and policy.
Result<void> check(const Cluster& cluster);

// What one machine holds. A machine that holds nothing is not in the list, rank 0 apart.
struct Rank {
  std::size_t machine = 0;       // index into Pool::machines
  std::size_t n_heads = 0;       // of n_heads; all of them where attention is replicated
  std::size_t expert_units = 0;  // of 32 columns of every routed (and shared) expert
  std::size_t vocab_units = 0;   // of 32 rows of lm_head
  std::size_t n_experts = 0;     // `expert`: whole experts of each layer, copies included
  std::size_t first_layer = 0;   // `pipeline`: [first_layer, first_layer + n_layers)
  std::size_t n_layers = 0;
  double weight_bytes = 0.0;
  double kv_bytes = 0.0;
  double backup_bytes = 0.0;
  double free_bytes = 0.0;  // usable - all of the above; never negative
  double share = 0.0;       // of the bytes that are split; sums to 1
};

struct Placement {
  Strategy strategy = Strategy::kSlice;
  bool attention_replicated = false;
  std::size_t expert_copies = 1;
  std::vector<Rank> ranks;           // [0] on the head machine
  std::size_t losses_survived = 0;   // by backups, without reading files again
  std::size_t losses_replanned = 0;  // by placing again on the rest of the pool, largest lost first
};

// The model over exactly the machines `members` (indices into the pool, ascending) with one
// strategy. docs/design.md 3. Error kExhausted: does not fit; the message names what is missing.
Result<Placement> place(const Cluster& cluster, Strategy strategy,
                        std::span<const std::size_t> members);

}  // namespace conclave::plan
