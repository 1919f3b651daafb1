// The planner: machines + links + model + workload -> placement and predicted speed, without I/O.
//
//   const plan::Catalogue catalogue = TRY(plan::parse_catalogue(sources));
//   plan::Cluster cluster = TRY(plan::parse_cluster(toml, "my.toml", catalogue));
//   plan::Plan best = TRY(plan::make_plan(cluster));
//   best.prediction.tokens_per_second;  best.explanation.constraint;
//
// The same functions place a model in a running pool (cluster/), with probed values in place of the
// catalogue's. Formulas: docs/perf-model.md, whose section each function names.
//
// Units: seconds, bytes, bytes per second, FLOP per second, watts, US dollars; names say which.
// Threads: pure functions over values; any thread. Errors are one line naming the wrong input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "plan/catalogue.h"
#include "plan/placement.h"
#include "plan/pool.h"
#include "plan/shape.h"

namespace conclave::plan {

// One step's seconds by cause; they add up to the step. docs/perf-model.md 3.
struct TimeSplit {
  double memory = 0.0;     // reading weights, as if perfectly shared
  double imbalance = 0.0;  // waiting for the slowest rank
  double compute = 0.0;    // arithmetic beyond what reading hides (large batches)
  double kv = 0.0;         // attention over the cache
  double dispatch = 0.0;   // kernel launches, barriers, sampling
  double exchange = 0.0;   // rounds between ranks
  double draft = 0.0;      // speculation's own model
  double total() const { return memory + imbalance + compute + kv + dispatch + exchange + draft; }
};

struct Prediction {
  TimeSplit split;  // of one step at the workload's batch
  double step_seconds = 0.0;
  double tokens_per_second = 0.0;  // all streams together
  double stream_tokens_per_second = 0.0;
  double slow_tokens_per_second = 0.0;      // 95 % of tokens are faster, by the links' jitter
  double exchange_seconds = 0.0;            // one exchange (alpha)
  std::size_t rounds = 0;                   // sequential exchanges per step
  double wire_bytes_per_token = 0.0;        // sent by all ranks
  double roofline_tokens_per_second = 0.0;  // peak bandwidth of all machines, zero latency
  double prefill_tokens_per_second = 0.0;
  double first_token_seconds = 0.0;
  double watts = 0.0;
  double joules_per_token = 0.0;
  double usd_per_million_tokens = 0.0;
  double price_usd = 0.0;
};

// The closed form. `placement` came from `place` for the same cluster.
Prediction predict(const Cluster& cluster, const Placement& placement);

// One exchange of `elements` activations between the placement's ranks, in seconds.
double exchange_seconds(const Cluster& cluster, std::span<const std::size_t> machines,
                        double elements);
// The exchange time at which slice-ra becomes as fast as slice. docs/perf-model.md 3.3.
double crossover_seconds(const Cluster& cluster, const Placement& placement);

// Event by event on sim/: every layer of every rank, experts drawn, messages with jitter.
struct EventOptions {
  std::uint64_t seed = 1;
  std::size_t n_tokens = 32;
  bool jitter = true;
  double compute_noise = 0.0;            // relative standard deviation of each rank's phase
  std::optional<std::size_t> slow_rank;  // runs at 1 / slow_factor of its speed
  double slow_factor = 2.0;
  std::optional<std::size_t> lost_rank;  // dies in the middle of token n_tokens / 2
  double detect_seconds = 0.5;           // until the others notice and a backup takes over
};
struct EventPrediction {
  double tokens_per_second = 0.0;
  std::vector<double> token_seconds;  // [n_tokens], in order
  double p50_seconds = 0.0;
  double p95_seconds = 0.0;
  double wait_share = 0.0;  // of all ranks' time, spent waiting for others
  std::uint64_t n_messages = 0;
  bool finished = true;  // false: a rank was lost and no backup held its slice
};
// At most so many ranks: CHECKed. The closed form has no such limit.
inline constexpr std::size_t kEventRanksMax = 256;
EventPrediction predict_events(const Cluster& cluster, const Placement& placement,
                               const EventOptions& options);

// What limits a plan, and what one change would help most.
struct Improvement {
  std::string change;              // "Thunderbolt 5 with RDMA in place of Thunderbolt 5 TCP"
  double tokens_per_second = 0.0;  // with it
};
struct Explanation {
  std::string constraint;                 // "kernel dispatch takes 45 % of each token"
  std::vector<Improvement> improvements;  // best first
  std::string strategy_reason;            // why this strategy and not the next one
  // Only with a measured figure.
  std::optional<double> measured_share;  // measured / predicted
  bool software_bound = false;           // measured is below half of the prediction
};

struct Plan {
  std::string cluster;  // Cluster::name
  Placement placement;
  Prediction prediction;  // at the workload's batch
  Prediction single;      // at batch 1
  Explanation explanation;
};

// The best plan: strategies and numbers of machines compared by `predict` at the workload's batch.
// Error kExhausted when nothing fits, naming the bytes missing.
Result<Plan> make_plan(const Cluster& cluster);
// The best placement alone, for callers that need no explanation (cluster/).
Result<Placement> best_placement(const Cluster& cluster);
// How many machines like the pool's last one hold the model, or 0 if no number of them does.
std::size_t machines_needed(const Cluster& cluster);
Explanation explain(const Cluster& cluster, const Placement& placement,
                    const Prediction& prediction);

}  // namespace conclave::plan
