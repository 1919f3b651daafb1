// What limits a plan, in words. The numbers come from `predict`; here they are only named.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <string_view>

#include "plan/explain_changes.h"
#include "plan/phases.h"
#include "plan/plan.h"

namespace conclave::plan {
namespace {

// A second cause is named when it takes this share of a step or more.
constexpr double kSecondCause = 0.2;
constexpr double kSoftwareBound = 0.5;

struct Cause {
  double seconds = 0.0;
  std::string_view words;
  std::string detail;  // "123 rounds of 180 us", may be empty
};

const Machine& machine_of(const Cluster& cluster, const Rank& rank) {
  return cluster.pool.machines[rank.machine];
}

double bandwidth_of(const Cluster& cluster, const Rank& rank) {
  return gemv_rate(cluster, machine_of(cluster, rank), cluster.model.quant.of(Part::kRouted).format,
                   bytes_in_turn(cluster, rank.weight_bytes, 0.0).routed);
}

// The slowest rank waits because another one is full: which, and of how much.
std::string full_machine_text(const Cluster& cluster, const Placement& placement) {
  double pace = 0.0;  // the largest share per bandwidth: that rank sets the time
  for (const Rank& rank : placement.ranks) {
    pace = std::max(pace, rank.share / bandwidth_of(cluster, rank));
  }
  for (const Rank& rank : placement.ranks) {
    const Machine& machine = machine_of(cluster, rank);
    const bool full = rank.free_bytes < 0.02 * machine.usable_bytes;
    if (!full || rank.share / bandwidth_of(cluster, rank) > 0.95 * pace) continue;
    return fmt::format("the memory of {} is full ({:.0f} GB), so that faster reading there is lost",
                       machine.name, machine.usable_bytes / 1e9);
  }
  return {};
}

std::array<Cause, 7> causes_of(const Cluster& cluster, const Placement& placement,
                               const Prediction& prediction) {
  const TimeSplit& split = prediction.split;
  const std::size_t n_layers = cluster.model.architecture.n_layers;
  std::string rounds;
  if (prediction.rounds > 0) {
    rounds = fmt::format("{} rounds of {}", prediction.rounds,
                         duration_text(split.exchange / static_cast<double>(prediction.rounds)));
  }
  std::string layers;
  if (n_layers > 0) {
    layers = fmt::format("{} layers of {}", n_layers,
                         duration_text(split.dispatch / static_cast<double>(n_layers)));
  }
  return {{
      {split.memory, "reading weights", {}},
      {split.imbalance, "waiting for the slowest machine", full_machine_text(cluster, placement)},
      {split.compute, "arithmetic", fmt::format("{} tokens a step", cluster.workload.batch)},
      {split.kv, "attention over the cache",
       fmt::format("{} tokens of context", cluster.workload.context)},
      {split.dispatch, "kernel dispatch", std::move(layers)},
      {split.exchange, "waiting for exchanges", std::move(rounds)},
      {split.draft, "the draft model", {}},
  }};
}

std::string text_of(const Cause& cause, double step_seconds, std::string_view unit) {
  const std::string detail = cause.detail.empty() ? "" : ": " + cause.detail;
  return fmt::format("{} takes {:.0f} % of each {} ({:.1f} of {:.1f} ms{})", cause.words,
                     100.0 * cause.seconds / step_seconds, unit, cause.seconds * 1e3,
                     step_seconds * 1e3, detail);
}

// "2 of 6 machines are left out: with all of them 12.0 tok/s"; empty when all hold something.
std::string left_out_text(const Cluster& cluster, const Placement& placement) {
  const std::size_t n_machines = cluster.pool.machines.size();
  const std::size_t n_used = placement.ranks.size();
  if (n_used >= n_machines) return {};
  std::string text = fmt::format("{} of {} machines {} left out", n_machines - n_used, n_machines,
                                 n_machines - n_used == 1 ? "is" : "are");
  if (cluster.policy.use_all_machines || n_machines > kExploredMachinesMax) return text;
  Cluster all = cluster;
  all.policy.use_all_machines = true;
  // The pipeline would be free to give them nothing again.
  if (n_used == 1 && cluster.software.strategies[0]) all.policy.strategy = Strategy::kSlice;
  if (n_used > 1) all.policy.strategy = placement.strategy;
  const Result<Placement> with_all = best_placement(all);
  if (!with_all) return fmt::format("{}: {}", text, with_all.error().message);
  if (with_all->ranks.size() <= n_used) return text;
  return fmt::format("{}: with {} of them {:.1f} tok/s", text,
                     with_all->ranks.size() == n_machines ? "all" : "more",
                     predict(all, *with_all).tokens_per_second);
}

std::string constraint_of(const Cluster& cluster, const Placement& placement,
                          const Prediction& prediction) {
  const double step = prediction.split.total();
  if (!(step > 0.0)) return "nothing takes time";
  std::array<Cause, 7> causes = causes_of(cluster, placement, prediction);
  std::ranges::stable_sort(causes, std::ranges::greater{}, &Cause::seconds);
  const bool one_token =
      cluster.workload.batch == 1 && cluster.workload.speculation.draft_tokens == 0;
  const std::string_view unit = one_token ? "token" : "step";
  std::string text = text_of(causes[0], step, unit);
  if (causes[1].seconds >= kSecondCause * step) {
    text += fmt::format("; then {} {:.0f} % ({:.1f} ms{}{})", causes[1].words,
                        100.0 * causes[1].seconds / step, causes[1].seconds * 1e3,
                        causes[1].detail.empty() ? "" : ": ", causes[1].detail);
  }
  const std::string left_out = left_out_text(cluster, placement);
  if (!left_out.empty()) text += "; " + left_out;
  return text;
}

// Where the choice between one exchange a layer and two turns. docs/perf-model.md 3.3.
std::string crossover_text(const Cluster& cluster, const Placement& placement,
                           const Prediction& prediction) {
  const bool slice = placement.strategy == Strategy::kSlice;
  if ((!slice && placement.strategy != Strategy::kSliceRa) || placement.ranks.size() < 2) return {};
  const double crossover = crossover_seconds(cluster, placement);
  if (!std::isfinite(crossover) || !(crossover > 0.0)) return {};
  return fmt::format("{} is faster when an exchange takes {} than {} (now {})",
                     name_of(slice ? Strategy::kSliceRa : Strategy::kSlice),
                     slice ? "longer" : "less", duration_text(crossover),
                     duration_text(prediction.exchange_seconds));
}

// The best placement with a strategy that was not taken.
Result<Placement> placement_with(const Cluster& cluster, Strategy strategy,
                                 const Placement& placement) {
  // Whole experts cost the search most, and below large batches they win on no set of machines.
  if (strategy == Strategy::kExpert) {
    std::vector<std::size_t> machines;
    for (const Rank& rank : placement.ranks) machines.push_back(rank.machine);
    std::ranges::sort(machines);
    return place(cluster, strategy, machines);
  }
  Cluster other = cluster;
  other.policy.strategy = strategy;
  return best_placement(other);
}

// The fastest of the strategies that were not taken, or why none of them can be.
std::string other_strategies_text(const Cluster& cluster, const Placement& placement,
                                  const Prediction& prediction) {
  double best = 0.0;
  std::string_view best_name;
  std::string refusal;
  for (std::size_t i = 0; i < kStrategies; ++i) {
    const auto strategy = static_cast<Strategy>(i);
    if (strategy == placement.strategy || !cluster.software.strategies[i]) continue;
    const Result<Placement> placed = placement_with(cluster, strategy, placement);
    if (!placed) {
      if (refusal.empty()) {
        refusal = fmt::format("{}: {}", name_of(strategy), placed.error().message);
      }
      continue;
    }
    // A strategy that is best on one machine is no alternative: there all of them are the same.
    if (placed->ranks.size() < 2) continue;
    const double speed = predict(cluster, *placed).tokens_per_second;
    if (speed <= best) continue;
    best = speed;
    best_name = name_of(strategy);
  }
  if (!best_name.empty()) {
    return fmt::format("{:.1f} tok/s against {:.1f} with {}", prediction.tokens_per_second, best,
                       best_name);
  }
  return refusal.empty() ? std::string("the only strategy of this software")
                         : "no other strategy can be used (" + refusal + ")";
}

std::string strategy_reason_of(const Cluster& cluster, const Placement& placement,
                               const Prediction& prediction) {
  if (placement.ranks.size() < 2) return "one machine holds everything: nothing is exchanged";
  std::string text = fmt::format("{}{}: ", name_of(placement.strategy),
                                 cluster.policy.strategy ? ", as asked for" : "");
  const std::string crossover = crossover_text(cluster, placement, prediction);
  if (cluster.pool.machines.size() > kExploredMachinesMax) {
    return text + (crossover.empty() ? "the fastest that fits" : crossover);
  }
  text += other_strategies_text(cluster, placement, prediction);
  return crossover.empty() ? text : text + "; " + crossover;
}

}  // namespace

Explanation explain(const Cluster& cluster, const Placement& placement,
                    const Prediction& prediction) {
  Explanation explanation;
  explanation.constraint = constraint_of(cluster, placement, prediction);
  explanation.improvements = improvements_of(cluster, placement, prediction);
  explanation.strategy_reason = strategy_reason_of(cluster, placement, prediction);
  if (cluster.measured_tokens_per_second && prediction.tokens_per_second > 0.0) {
    const double share = *cluster.measured_tokens_per_second / prediction.tokens_per_second;
    explanation.measured_share = share;
    explanation.software_bound = share < kSoftwareBound;
    if (explanation.software_bound) {
      explanation.constraint = fmt::format(
          "the software, not the machines: measured {:.1f} tok/s is {:.0f} % of what they can do "
          "({:.1f}); there, {}",
          *cluster.measured_tokens_per_second, 100.0 * share, prediction.tokens_per_second,
          explanation.constraint);
    }
  }
  return explanation;
}

}  // namespace conclave::plan
