// The closed form: seconds of one step, from what each rank reads, computes and waits for.
// docs/perf-model.md 3.
#include "plan/predict.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "base/check.h"
#include "plan/exchange.h"
#include "plan/experts.h"
#include "plan/phases.h"
#include "plan/plan.h"
#include "plan/units.h"

namespace conclave::plan {
namespace {

constexpr std::size_t kPrefillChunk = 2048;     // tokens; docs/perf-model.md 3.6
constexpr std::size_t kImbalanceRowsMax = 256;  // with more, every rank reads nearly all it holds
constexpr double kSecondsPerYear = 365.25 * 86400.0;
constexpr double kJoulesPerKwh = 3.6e6;

std::vector<std::size_t> machines_of(const Placement& placement) {
  std::vector<std::size_t> machines;
  for (const Rank& rank : placement.ranks) machines.push_back(rank.machine);
  return machines;
}

// One rank's work of one kind in a whole step, in seconds.
struct RankTotal {
  double memory = 0.0;
  double work = 0.0;  // memory, or arithmetic where that takes longer
  double kv = 0.0;

  void add(double times, const Work& part) {
    memory += times * part.memory;
    work += times * part.time();
  }
};

// Standard deviations by which the slowest of `n` is above the mean, where they are spread
// normally.
double above_mean(std::size_t n) {
  constexpr double kReach = 6.0;
  constexpr std::size_t kSteps = 240;
  double above = 0.0;  // integral over x of P(slowest > x) - [x < 0]
  for (std::size_t i = 0; i < kSteps; ++i) {
    const double x = -kReach + 2.0 * kReach * (as_double(i) + 0.5) / as_double(kSteps);
    const double all_below = std::pow(0.5 * std::erfc(-x / std::sqrt(2.0)), as_double(n));
    above += (x < 0.0 ? -all_below : 1.0 - all_below) * 2.0 * kReach / as_double(kSteps);
  }
  return above;
}

// Work of all ranks between two exchanges: everyone waits for the slowest, and where phases are
// short (a few milliseconds, as in decode) for whoever is slow for a moment. Layers of one kind are
// alike and waits grow with the work, so that summing them before the wait changes nothing; the few
// dense layers are summed with the others because one division of columns serves both.
class PhaseSum {
 public:
  PhaseSum(const Cluster& cluster, const Placement& placement, bool is_short) {
    double sum = 0.0;
    for (const Rank& rank : placement.ranks) {
      const Machine& machine = cluster.pool.machines[rank.machine];
      weights_.push_back(gemv_rate(cluster, machine, cluster.model.quant.of(Part::kRouted).format,
                                   bytes_in_turn(cluster, rank.weight_bytes, 0.0).routed));
      sum += weights_.back();
    }
    for (double& weight : weights_) weight /= sum;
    if (!is_short) return;
    double unsteadiness = 0.0;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      unsteadiness += weights_[i] * cluster.pool.machines[placement.ranks[i].machine].unsteadiness;
    }
    const auto n_working = static_cast<std::size_t>(
        std::ranges::count_if(placement.ranks, [](const Rank& rank) { return rank.share > 0.0; }));
    if (unsteadiness > 0.0 && n_working > 1) waiting_ = unsteadiness * above_mean(n_working);
  }

  // All ranks do their part, then wait for the slowest.
  void add(TimeSplit& split, const std::vector<RankTotal>& totals) const {
    double slowest = 0.0;
    RankTotal mean;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      slowest = std::max(slowest, totals[i].work + totals[i].kv);
      mean.memory += weights_[i] * totals[i].memory;
      mean.work += weights_[i] * totals[i].work;
      mean.kv += weights_[i] * totals[i].kv;
    }
    split.memory += mean.memory;
    split.compute += mean.work - mean.memory;
    split.kv += mean.kv;
    split.imbalance += std::max(0.0, slowest - mean.work - mean.kv) + waiting_ * slowest;
  }

 private:
  std::vector<double> weights_;  // each rank's part of the pool's speed
  double waiting_ = 0.0;         // for ranks that are slow for a moment, as part of the work
};

double imbalance_of(const Cluster& cluster, const Placement& placement, const StepShape& shape) {
  if (placement.strategy != Strategy::kExpert) return 1.0;
  std::size_t n_holders = 0;
  for (const Rank& rank : placement.ranks) n_holders += rank.n_experts > 0 ? 1 : 0;
  return expert_imbalance(cluster.model.architecture,
                          {.n_ranks = n_holders,
                           .tokens = std::clamp<std::size_t>(static_cast<std::size_t>(shape.rows),
                                                             1, kImbalanceRowsMax),
                           .copies = placement.expert_copies,
                           .zipf = cluster.workload.zipf});
}

// Everything between the exchanges of one step.
TimeSplit sliced_work(const Cluster& cluster, const Placement& placement, const StepShape& shape,
                      bool is_short) {
  const Architecture& a = cluster.model.architecture;
  const double imbalance = imbalance_of(cluster, placement, shape);
  const std::size_t n = placement.ranks.size();
  const double n_dense = as_double(a.n_dense_layers);
  const double n_moe = as_double(a.n_layers - a.n_dense_layers);
  std::vector<RankTotal> attention(n);
  std::vector<RankTotal> columns(n);
  std::vector<RankTotal> head(n);
  for (std::size_t i = 0; i < n; ++i) {
    const PhaseWork work = phase_work(cluster, placement, i, shape);
    Work routed = work.routed;
    routed.memory *= imbalance;
    // With attention replicated there is no exchange, and no wait, before the experts.
    RankTotal& with_attention = placement.attention_replicated ? columns[i] : attention[i];
    with_attention.add(n_moe + n_dense, work.attention);
    with_attention.kv += (n_moe + n_dense) * work.kv.time();
    columns[i].add(n_moe, work.feed_forward + routed);
    columns[i].add(n_dense, work.dense);
    head[i].add(1.0, work.head);
  }
  const PhaseSum sum(cluster, placement, is_short);
  TimeSplit split;
  sum.add(split, attention);
  sum.add(split, columns);
  sum.add(split, head);
  double layer = 0.0;
  double step = 0.0;
  for (const Rank& rank : placement.ranks) {
    const Machine& machine = cluster.pool.machines[rank.machine];
    layer = std::max(layer, dispatch_seconds(cluster, machine));
    step = std::max(step, machine.step_seconds);
  }
  split.dispatch = layer * as_double(a.n_layers) + step;
  return split;
}

std::size_t rounds_of(const Cluster& cluster, const Placement& placement) {
  if (placement.ranks.size() < 2) return 0;
  const std::size_t layers = cluster.model.architecture.n_layers;
  const std::size_t head = cluster.software.splits_head ? 1 : 0;
  return (placement.attention_replicated ? layers : 2 * layers) + head;
}

// One pipeline stage for one group of rows.
TimeSplit stage_work(const Cluster& cluster, const Placement& placement, std::size_t stage,
                     const StepShape& shape) {
  const Architecture& a = cluster.model.architecture;
  const Rank& rank = placement.ranks[stage];
  const PhaseWork work = phase_work(cluster, placement, stage, shape);
  // Every layer counts as the mean one: which stage has the few dense layers matters little.
  const double dense_share = as_double(a.n_dense_layers) / as_double(a.n_layers);
  const double n_layers = as_double(rank.n_layers);
  TimeSplit split;
  const auto add = [&split](double times, const Work& part) {
    split.memory += times * part.memory;
    split.compute += times * (part.time() - part.memory);
  };
  add(n_layers, work.attention);
  add(n_layers * (1.0 - dense_share), work.feed_forward + work.routed);
  add(n_layers * dense_share, work.dense);
  if (rank.vocab_units > 0) add(1.0, work.head);
  split.kv = n_layers * work.kv.time();
  const Machine& machine = cluster.pool.machines[rank.machine];
  split.dispatch = n_layers * dispatch_seconds(cluster, machine);
  if (stage == 0) split.dispatch += machine.step_seconds;
  return split;
}

struct PipelineTimes {
  TimeSplit all;             // one group of rows through all stages, hops included
  double slowest = 0.0;      // stage, with its hop
  std::size_t n_stages = 0;  // that hold layers
};

// lm_head on a machine in the middle of the pipeline costs a hop more than on the last or the
// first.
bool head_is_aside(const Placement& placement) {
  std::size_t last_stage = 0;
  std::size_t holder = 0;
  for (std::size_t i = 0; i < placement.ranks.size(); ++i) {
    if (placement.ranks[i].n_layers > 0) last_stage = i;
    if (placement.ranks[i].vocab_units > 0) holder = i;
  }
  return holder != last_stage && holder != 0;
}

PipelineTimes pipeline_times(const Cluster& cluster, const Placement& placement,
                             const StepShape& shape) {
  PipelineTimes times;
  for (const Rank& rank : placement.ranks) times.n_stages += rank.n_layers > 0 ? 1 : 0;
  const double hop =
      times.n_stages > 1
          ? hop_seconds(cluster, machines_of(placement),
                        shape.rows * as_double(cluster.model.architecture.hidden_size))
          : 0.0;
  for (std::size_t stage = 0; stage < placement.ranks.size(); ++stage) {
    if (placement.ranks[stage].n_layers == 0 && placement.ranks[stage].vocab_units == 0) continue;
    const TimeSplit work = stage_work(cluster, placement, stage, shape);
    times.all.memory += work.memory;
    times.all.compute += work.compute;
    times.all.kv += work.kv;
    times.all.dispatch += work.dispatch;
    times.all.exchange += hop;
    times.slowest = std::max(times.slowest, work.total() + hop);
  }
  if (head_is_aside(placement)) times.all.exchange += hop;
  return times;
}

// Streams travel in groups, one group per stage at a time.
TimeSplit pipeline_step(const Cluster& cluster, const Placement& placement, std::size_t batch) {
  const PipelineTimes one = pipeline_times(cluster, placement, decode_shape(cluster, 1));
  const std::size_t n_groups = std::min(batch, one.n_stages);
  const std::size_t small = batch / n_groups;
  const std::size_t n_large = batch % n_groups;  // groups of one stream more
  const PipelineTimes few = pipeline_times(cluster, placement, decode_shape(cluster, small));
  const PipelineTimes many =
      n_large == 0 ? few : pipeline_times(cluster, placement, decode_shape(cluster, small + 1));
  TimeSplit split = many.all;
  const double all_groups =
      as_double(n_groups - n_large) * few.slowest + as_double(n_large) * many.slowest;
  split.imbalance = std::max(0.0, all_groups - split.total());
  return split;
}

// `n_chunks`: of the prompt; the exchanges of one hide behind the work of the next.
double prefill_chunk_seconds(const Cluster& cluster, const Placement& placement,
                             const StepShape& shape, std::size_t n_chunks) {
  const TimeSplit split = sliced_work(cluster, placement, shape, /*is_short=*/false);
  const std::size_t rounds = rounds_of(cluster, placement);
  const double wire =
      as_double(rounds) *
      exchange_seconds(cluster, machines_of(placement),
                       shape.rows * as_double(cluster.model.architecture.hidden_size));
  const double work = split.total();
  if (!cluster.software.overlaps_prefill) return work + wire;
  return std::max(work, wire) + std::min(work, wire) / as_double(n_chunks);
}

double prefill_seconds(const Cluster& cluster, const Placement& placement) {
  const std::size_t prompt = cluster.workload.prompt;
  const std::size_t n_chunks = (prompt + kPrefillChunk - 1) / kPrefillChunk;
  double seconds = 0.0;
  for (std::size_t first = 0; first < prompt; first += kPrefillChunk) {
    const StepShape shape = prefill_shape(cluster, first, std::min(kPrefillChunk, prompt - first));
    if (placement.strategy != Strategy::kPipeline) {
      seconds += prefill_chunk_seconds(cluster, placement, shape, n_chunks);
      continue;
    }
    // Chunks leave the slowest stage one after the other; the last has the other stages to pass.
    const PipelineTimes times = pipeline_times(cluster, placement, shape);
    const bool is_last = first + kPrefillChunk >= prompt;
    seconds += is_last ? times.all.total() : times.slowest;
  }
  return seconds;
}

// Each round ends with the slowest of N exponential delays: mean H_N, variance sum of 1 / k^2.
double slow_step_seconds(const Cluster& cluster, const Placement& placement,
                         const Prediction& prediction) {
  const double jitter = jitter_seconds(cluster, machines_of(placement));
  double mean = 0.0;
  double variance = 0.0;
  for (std::size_t k = 1; k <= placement.ranks.size(); ++k) {
    mean += 1.0 / as_double(k);
    variance += 1.0 / as_double(k * k);
  }
  const double rounds = as_double(prediction.rounds);
  return prediction.step_seconds + jitter * (rounds * mean + 1.645 * std::sqrt(rounds * variance));
}

void add_costs(const Cluster& cluster, const Placement& placement, Prediction& prediction) {
  std::vector<bool> used(cluster.pool.machines.size(), false);
  for (const Rank& rank : placement.ranks) used[rank.machine] = true;
  for (std::size_t i = 0; i < used.size(); ++i) {
    const Machine& machine = cluster.pool.machines[i];
    prediction.price_usd += machine.price_usd;
    prediction.watts += used[i] ? machine.load_watts : machine.idle_watts;
  }
  const Policy& policy = cluster.policy;
  const double tokens_per_second = prediction.tokens_per_second;
  prediction.joules_per_token = prediction.watts / tokens_per_second;
  const double lifetime_tokens =
      policy.lifetime_years * kSecondsPerYear * policy.utilisation * tokens_per_second;
  prediction.usd_per_million_tokens =
      1e6 * (prediction.price_usd / lifetime_tokens +
             prediction.joules_per_token / kJoulesPerKwh * policy.usd_per_kwh);
}

double roofline(const Cluster& cluster, const Placement& placement) {
  double bandwidth = 0.0;
  for (const Machine& machine : cluster.pool.machines) bandwidth += machine.peak_bandwidth;
  // Weights that stay in a cache are read faster than memory can.
  for (const Rank& rank : placement.ranks) {
    const Machine& machine = cluster.pool.machines[rank.machine];
    double fastest = machine.peak_bandwidth;
    const double in_turn = bytes_in_turn(cluster, rank.weight_bytes, 0.0).others;
    for (std::size_t f = 0; f < kFormats; ++f) {
      fastest = std::max(fastest, gemv_rate(cluster, machine, static_cast<Format>(f), in_turn));
    }
    bandwidth += fastest - machine.peak_bandwidth;
  }
  const StepShape shape = decode_shape(cluster, cluster.workload.batch);
  const Model& model = cluster.model;
  const double routed = read_bytes(model, Part::kRouted) * shape.distinct_experts /
                        as_double(model.architecture.experts_per_token);
  const double bytes =
      read_bytes(model) - read_bytes(model, Part::kRouted) + routed +
      kv_bytes(model, cluster.workload.context) * as_double(cluster.workload.batch);
  return bandwidth / bytes * as_double(cluster.workload.batch) *
         cluster.workload.speculation.accepted;
}

}  // namespace

TimeSplit predict_step(const Cluster& cluster, const Placement& placement, std::size_t batch) {
  TimeSplit split;
  if (placement.strategy == Strategy::kPipeline) {
    split = pipeline_step(cluster, placement, batch);
  } else {
    const StepShape shape = decode_shape(cluster, batch);
    split = sliced_work(cluster, placement, shape, /*is_short=*/true);
    split.exchange =
        as_double(rounds_of(cluster, placement)) *
        exchange_seconds(cluster, machines_of(placement),
                         shape.rows * as_double(cluster.model.architecture.hidden_size));
  }
  if (cluster.workload.speculation.draft_tokens > 0) {
    split.draft = cluster.workload.speculation.draft_seconds;
  }
  return split;
}

Prediction predict(const Cluster& cluster, const Placement& placement) {
  CHECK(!placement.ranks.empty());
  const Workload& workload = cluster.workload;
  const std::vector<std::size_t> machines = machines_of(placement);
  const StepShape shape = decode_shape(cluster, workload.batch);
  const double elements = shape.rows * as_double(cluster.model.architecture.hidden_size);
  const double n = as_double(machines.size());
  Prediction prediction;
  prediction.split = predict_step(cluster, placement, workload.batch);
  double wire_elements = 0.0;  // sent by all ranks in one step
  if (placement.strategy == Strategy::kPipeline) {
    for (const Rank& rank : placement.ranks) prediction.rounds += rank.n_layers > 0 ? 1 : 0;
    if (prediction.rounds == 1) prediction.rounds = 0;
    if (head_is_aside(placement)) ++prediction.rounds;
    prediction.exchange_seconds =
        prediction.rounds == 0 ? 0.0 : hop_seconds(cluster, machines, elements);
    wire_elements = as_double(prediction.rounds) * elements;
  } else {
    prediction.rounds = rounds_of(cluster, placement);
    prediction.exchange_seconds = exchange_seconds(cluster, machines, elements);
    wire_elements = as_double(prediction.rounds) * elements * n * (n - 1.0);
  }
  prediction.step_seconds = prediction.split.total();
  prediction.stream_tokens_per_second = workload.speculation.accepted / prediction.step_seconds;
  prediction.tokens_per_second = prediction.stream_tokens_per_second * as_double(workload.batch);
  prediction.slow_tokens_per_second = prediction.tokens_per_second * prediction.step_seconds /
                                      slow_step_seconds(cluster, placement, prediction);
  prediction.wire_bytes_per_token = wire_elements * cluster.software.wire_bytes_per_element /
                                    (as_double(workload.batch) * workload.speculation.accepted);
  prediction.roofline_tokens_per_second = roofline(cluster, placement);
  const double prefill = prefill_seconds(cluster, placement);
  prediction.prefill_tokens_per_second = as_double(workload.prompt) / prefill;
  prediction.first_token_seconds = prefill;
  add_costs(cluster, placement, prediction);
  return prediction;
}

}  // namespace conclave::plan
