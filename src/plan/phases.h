// How long each rank works in each phase of a layer, by reading and by arithmetic.
// The closed form (predict.cc), the placement (place.cc) and the event-level prediction
// (events.cc) share these numbers. docs/perf-model.md 3.
#pragma once

#include <cstddef>
#include <span>

#include "plan/placement.h"

namespace conclave::plan {

// What a rank reads from one use of a weight to the next, itself included, where it keeps
// `weight_bytes`: a routed expert comes again after many tokens, all else with the next one. A step
// reads `distinct_experts` of each layer's.
struct BytesInTurn {
  double routed = 0.0;
  double others = 0.0;
};
BytesInTurn bytes_in_turn(const Cluster& cluster, double weight_bytes, double distinct_experts);
// Bytes per second that this machine reads weights of a format with, when `in_turn` bytes are read
// from one use to the next: a machine whose cache holds those reads faster.
double gemv_rate(const Cluster& cluster, const Machine& machine, Format format, double in_turn);
// Per layer, besides reading weights.
double dispatch_seconds(const Cluster& cluster, const Machine& machine);

// What is read and computed by one rank in one phase, in seconds.
struct Work {
  double memory = 0.0;
  double compute = 0.0;
  // Reading hides behind arithmetic, or the other way round.
  double time() const { return memory > compute ? memory : compute; }
};
inline Work operator+(const Work& a, const Work& b) {
  return {.memory = a.memory + b.memory, .compute = a.compute + b.compute};
}

// One step's shape: how many rows, and how far the cache reaches.
struct StepShape {
  double rows = 1.0;              // tokens in the step
  double head_rows = 1.0;         // whose logits are wanted
  double distinct_experts = 0.0;  // of a layer, over the rows
  double cached_tokens = 0.0;     // tokens whose KV is read, all streams together
  double attention_flops = 0.0;   // over the cache, all rows, layers and heads
};
// Of a decode step of the workload, speculation included; `batch` streams.
StepShape decode_shape(const Cluster& cluster, std::size_t batch);
// Of one prefill chunk: rows [first, first + rows) of a prompt.
StepShape prefill_shape(const Cluster& cluster, std::size_t first, std::size_t rows);

// Of one layer; `head` of the model.
struct PhaseWork {
  Work attention;
  Work kv;
  Work feed_forward;  // of a layer with experts, all but the routed ones
  Work routed;        // its routed experts; under `expert` the mean, before expert_imbalance
  Work dense;         // of a layer without experts
  Work head;
};
PhaseWork phase_work(const Cluster& cluster, const Placement& placement, std::size_t rank,
                     const StepShape& shape);

// The same as plain seconds, for `rows` rows and `experts_read` distinct routed experts per layer
// (`expert`: of which the rank reads exactly so many), at the workload's context.
struct PhaseTimes {
  double attention = 0.0;
  double feed_forward = 0.0;
  double dense = 0.0;
  double head = 0.0;
  double kv = 0.0;
};
PhaseTimes phase_times(const Cluster& cluster, const Placement& placement, std::size_t rank,
                       double rows, double experts_read);

// Share of one layer's attention weights that a rank with `n_heads` heads reads. Under GQA a KV
// head is held by every rank that has one of its query heads.
double attention_share(const Architecture& architecture, std::size_t n_heads);
double kv_share(const Architecture& architecture, std::size_t n_heads);
// The same for memory, where heads need not begin with a KV head: never too little.
double attention_share_held(const Architecture& architecture, std::size_t n_heads);
double kv_share_held(const Architecture& architecture, std::size_t n_heads);
std::size_t expert_units(const Architecture& architecture);
std::size_t vocab_units(const Architecture& architecture);

}  // namespace conclave::plan
