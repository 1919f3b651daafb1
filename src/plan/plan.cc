// The search: which machines, which strategy.
#include "plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "base/check.h"
#include "plan/exchange.h"
#include "plan/phases.h"
#include "plan/predict.h"

namespace conclave::plan {
namespace {

constexpr std::size_t kSubsetsMax = 600;     // tried one by one, when there are so few
constexpr std::size_t kLeaveOutMax = 24;     // machines tried one by one for leaving out
constexpr std::size_t kExpertBatchMin = 16;  // below, whole experts never win: perf-model 3.3
constexpr std::size_t kReplanLossesMax = 64;

using Members = std::vector<std::size_t>;

struct Candidate {
  Placement placement;
  double step_seconds = 0.0;
};

// Machines that a placement cannot tell apart.
std::vector<Members> kinds_of(const Pool& pool) {
  std::vector<bool> in_pair(pool.machines.size(), false);
  for (const PairLink& pair : pool.pairs) in_pair[pair.a] = in_pair[pair.b] = true;
  using Key = std::tuple<double, double, double, double, double, double, double, double, double,
                         DeviceClass, std::array<double, kFormats>, std::array<double, kFormats>,
                         std::size_t>;
  std::map<Key, Members> kinds;
  for (std::size_t i = 1; i < pool.machines.size(); ++i) {
    const Machine& m = pool.machines[i];
    const std::size_t own = in_pair[i] ? i : 0;
    kinds[Key{-m.peak_bandwidth, m.usable_bytes, m.efficiency, m.prefill_flops, m.cache_bytes,
              m.dispatch_seconds, m.expert_seconds, m.step_seconds, m.unsteadiness, m.device,
              m.gemv_bandwidth, m.cache_gemv_bandwidth, own}]
        .push_back(i);
  }
  std::vector<Members> result;
  for (auto& [key, members] : kinds) result.push_back(std::move(members));
  return result;
}

// The most machines that can all hold something.
std::size_t useful_machines(const Architecture& a) {
  return std::max({expert_units(a), a.n_heads, a.n_layers, a.n_experts}) + 1;
}

// All small numbers, then steps of about a tenth: the curve is flat there.
std::vector<std::size_t> counts_up_to(std::size_t most) {
  std::vector<std::size_t> counts;
  for (std::size_t n = 0; n <= most; n += n < 16 ? 1 : n / 10) counts.push_back(n);
  if (counts.back() != most) counts.push_back(most);
  return counts;
}

// Every choice of how many machines of each kind, if they are few; the head is always in.
std::vector<Members> all_subsets(const std::vector<Members>& kinds, std::size_t most) {
  std::vector<Members> subsets = {{0}};
  for (const Members& kind : kinds) {
    const std::vector<std::size_t> counts = counts_up_to(std::min(kind.size(), most));
    if (subsets.size() * counts.size() > kSubsetsMax) return {};
    std::vector<Members> longer;
    for (const Members& subset : subsets) {
      for (const std::size_t count : counts) {
        longer.push_back(subset);
        longer.back().insert(longer.back().end(), kind.begin(),
                             kind.begin() + static_cast<std::ptrdiff_t>(count));
      }
    }
    subsets = std::move(longer);
  }
  return subsets;
}

// The head with the first machines of an order, for some numbers of them.
void add_prefixes(const Members& order, std::size_t most, std::vector<Members>& subsets) {
  for (const std::size_t count : counts_up_to(std::min(order.size(), most))) {
    Members members = {0};
    members.insert(members.end(), order.begin(),
                   order.begin() + static_cast<std::ptrdiff_t>(count));
    subsets.push_back(std::move(members));
  }
}

class Search {
 public:
  explicit Search(const Cluster& cluster) : cluster_(cluster) {}

  Result<Candidate> best() {
    const std::size_t n = cluster_.pool.machines.size();
    Members all(n);
    std::iota(all.begin(), all.end(), std::size_t{0});
    if (cluster_.policy.use_all_machines || cluster_.software.uses_all_machines || n == 1) {
      consider(all);
    } else {
      consider_subsets(n);
    }
    if (best_) return std::move(*best_);
    return nothing_fits(all);
  }

 private:
  void consider_subsets(std::size_t n) {
    const std::size_t most = useful_machines(cluster_.model.architecture);
    std::vector<Members> subsets = all_subsets(kinds_of(cluster_.pool), most);
    const bool complete = !subsets.empty();
    if (!complete) {
      Members order(n - 1);
      std::iota(order.begin(), order.end(), std::size_t{1});
      const auto& machines = cluster_.pool.machines;
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return machines[a].peak_bandwidth * machines[a].efficiency >
               machines[b].peak_bandwidth * machines[b].efficiency;
      });
      add_prefixes(order, most, subsets);
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return machines[a].usable_bytes > machines[b].usable_bytes;
      });
      add_prefixes(order, most, subsets);
    }
    for (const Members& members : subsets) consider(members);
    if (!best_) {
      // Whole experts fit where slices, each with what all ranks hold, do not.
      try_whole_experts_ = true;
      for (const Members& members : subsets) consider(members);
    }
    if (!complete) leave_out();
  }

  // From the best so far, leaves out one machine after the other while that helps.
  void leave_out() {
    bool better = best_.has_value();
    while (better && best_->placement.ranks.size() <= kLeaveOutMax) {
      better = false;
      const std::vector<Rank> ranks = best_->placement.ranks;
      for (std::size_t i = 1; i < ranks.size(); ++i) {
        Members members;
        for (std::size_t j = 0; j < ranks.size(); ++j) {
          if (j != i) members.push_back(ranks[j].machine);
        }
        better = consider(std::move(members)) || better;
      }
    }
  }

  bool consider(Members members) {
    std::sort(members.begin(), members.end());
    bool better = false;
    for (std::size_t s = 0; s < kStrategies; ++s) {
      const Strategy strategy = static_cast<Strategy>(s);
      if (cluster_.policy.strategy && *cluster_.policy.strategy != strategy) continue;
      if (!cluster_.policy.strategy && !cluster_.software.strategies[s]) continue;
      // On one machine all strategies are the same; the pipeline is the plain form of it.
      if (members.size() == 1 && strategy != Strategy::kSlice && !cluster_.policy.strategy &&
          cluster_.software.strategies[0]) {
        continue;
      }
      if (strategy == Strategy::kExpert && !cluster_.policy.strategy &&
          cluster_.workload.batch < kExpertBatchMin && !try_whole_experts_ &&
          cluster_.software.strategies[0]) {
        continue;
      }
      better = consider(strategy, members) || better;
    }
    return better;
  }

  bool consider(Strategy strategy, const Members& members) {
    Result<Placement> placement = place(cluster_, strategy, members);
    if (!placement) {
      if (!first_error_) first_error_ = placement.error();
      return false;
    }
    if (!cluster_.policy.use_all_machines && !cluster_.software.uses_all_machines) {
      drop_idle_ranks(*placement);
    }
    const double seconds = predict_step(cluster_, *placement, cluster_.workload.batch).total();
    if (best_ && seconds >= best_->step_seconds) return false;
    best_ = Candidate{std::move(*placement), seconds};
    return true;
  }

  // A machine that was given nothing would still be asked for every exchange.
  static void drop_idle_ranks(Placement& placement) {
    auto& ranks = placement.ranks;
    ranks.erase(std::remove_if(ranks.begin() + 1, ranks.end(),
                               [](const Rank& rank) {
                                 return rank.weight_bytes == 0.0 && rank.backup_bytes == 0.0;
                               }),
                ranks.end());
  }

  Result<Candidate> nothing_fits(const Members& all) {
    // The complaint about all machines together says most; slices have the least overhead but one.
    std::optional<Error> error;
    for (std::size_t s = kStrategies; s-- > 0;) {
      const Strategy strategy = static_cast<Strategy>(s);
      if (cluster_.policy.strategy && *cluster_.policy.strategy != strategy) continue;
      if (!cluster_.policy.strategy && !cluster_.software.strategies[s]) continue;
      Members members = all;
      members.resize(std::min(all.size(), useful_machines(cluster_.model.architecture)));
      Result<Placement> placement = place(cluster_, strategy, members);
      if (!placement) error = placement.error();
    }
    if (!error) error = first_error_;
    if (!error) {
      error = invalid_input(fmt::format("{} knows none of the strategies", cluster_.software.name));
    }
    return std::move(*error);
  }

  const Cluster& cluster_;
  bool try_whole_experts_ = false;
  std::optional<Candidate> best_;
  std::optional<Error> first_error_;
};

bool fits(const Cluster& cluster, const Members& members) {
  for (std::size_t s = 0; s < kStrategies; ++s) {
    const Strategy strategy = static_cast<Strategy>(s);
    if (cluster.policy.strategy ? *cluster.policy.strategy != strategy
                                : !cluster.software.strategies[s]) {
      continue;
    }
    if (place(cluster, strategy, members)) return true;
  }
  return false;
}

// How many machines may go, the one with most memory first, until the rest cannot hold the model.
std::size_t losses_replanned(const Cluster& cluster) {
  const auto& machines = cluster.pool.machines;
  Members order(machines.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin() + 1, order.end(), [&machines](std::size_t a, std::size_t b) {
    return machines[a].usable_bytes < machines[b].usable_bytes;
  });
  const std::size_t useful = useful_machines(cluster.model.architecture);
  std::size_t losses = 0;
  while (order.size() > 1 && losses < kReplanLossesMax) {
    order.pop_back();
    // Of very many the largest are enough to tell.
    Members members(order.end() - static_cast<std::ptrdiff_t>(std::min(order.size(), useful)),
                    order.end());
    if (members.front() != 0) members.front() = 0;
    std::sort(members.begin(), members.end());
    if (!fits(cluster, members)) break;
    ++losses;
  }
  return losses;
}

}  // namespace

Result<Placement> best_placement(const Cluster& cluster) {
  TRY(check(cluster));
  return TRY(Search(cluster).best()).placement;
}

Result<Plan> make_plan(const Cluster& cluster) {
  Plan plan;
  plan.cluster = cluster.name;
  plan.placement = TRY(best_placement(cluster));
  plan.placement.losses_replanned = losses_replanned(cluster);
  plan.prediction = predict(cluster, plan.placement);
  Cluster single = cluster;
  single.workload.batch = 1;
  plan.single = predict(single, plan.placement);
  plan.explanation = explain(cluster, plan.placement, plan.prediction);
  return plan;
}

std::size_t machines_needed(const Cluster& cluster) {
  if (!check(cluster)) return 0;
  Cluster larger = cluster;
  larger.pool.pairs.clear();
  const std::size_t most = useful_machines(cluster.model.architecture);
  larger.pool.machines.assign(most, cluster.pool.machines.back());
  const auto fit = [&larger](std::size_t n) {
    Members members(n);
    std::iota(members.begin(), members.end(), std::size_t{0});
    return fits(larger, members);
  };
  std::size_t enough = 1;
  while (enough < most && !fit(enough)) enough = std::min(most, 2 * enough);
  if (!fit(enough)) return 0;
  std::size_t too_few = enough / 2;
  while (too_few + 1 < enough) {
    const std::size_t middle = (too_few + enough) / 2;
    (fit(middle) ? enough : too_few) = middle;
  }
  return enough;
}

double crossover_seconds(const Cluster& cluster, const Placement& placement) {
  Members members;
  for (const Rank& rank : placement.ranks) members.push_back(rank.machine);
  const Result<Placement> slice = place(cluster, Strategy::kSlice, members);
  const Result<Placement> replicated = place(cluster, Strategy::kSliceRa, members);
  if (!slice || !replicated || members.size() < 2) return 0.0;
  const Prediction a = predict(cluster, *slice);
  const Prediction b = predict(cluster, *replicated);
  const double more_work =
      (b.step_seconds - b.split.exchange) - (a.step_seconds - a.split.exchange);
  return std::max(0.0, more_work / static_cast<double>(a.rounds - b.rounds));
}

}  // namespace conclave::plan
