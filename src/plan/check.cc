#include "plan/check.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "plan/catalogue.h"
#include "plan/toml_reader.h"

namespace conclave::plan {
namespace {

// A float32 matrix of few rows, such as a router of 4 experts, is kept in panels of 16.
constexpr double kParameterBytesMax = 64.0;

struct Value {
  std::string_view name;
  double value = 0.0;
  double min = 0.0;
  double max = 0.0;
};

// `owner` is 'machine "a"'; the first value out of its range is the error.
template <std::size_t n>
Result<void> check_values(const std::string& owner, const Value (&values)[n]) {
  for (const Value& value : values) {
    // Not a number fails both comparisons.
    if (value.value >= value.min && value.value <= value.max) continue;
    return invalid_input(owner + ": " + std::string(value.name) + " is " +
                         number_text(value.value) + ", expected " + number_text(value.min) +
                         " to " + number_text(value.max));
  }
  return {};
}

std::string named(std::string_view kind, std::string_view name) {
  return std::string(kind) + " \"" + shown_text(name) + "\"";
}

// Union-find with path halving; the union by size keeps trees flat for 100,000 machines.
class Groups {
 public:
  explicit Groups(std::size_t n) : parent_(n), size_(n, 1) {
    std::iota(parent_.begin(), parent_.end(), std::size_t{0});
  }
  std::size_t find(std::size_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  void join(std::size_t a, std::size_t b) {
    a = find(a);
    b = find(b);
    if (a == b) return;
    if (size_[a] < size_[b]) std::swap(a, b);
    parent_[b] = a;
    size_[a] += size_[b];
  }

 private:
  std::vector<std::size_t> parent_;
  std::vector<std::size_t> size_;
};

Result<void> check_machines(const std::vector<Machine>& machines) {
  if (machines.empty()) return invalid_input("no machines");
  if (machines.size() > kMachinesMax) {
    return invalid_input(std::to_string(machines.size()) + " machines, at most " +
                         std::to_string(kMachinesMax));
  }
  std::unordered_set<std::string_view> names;
  for (const Machine& machine : machines) {
    TRY(check(machine));
    if (!names.insert(machine.name).second) {
      return invalid_input("two machines have the name \"" + shown_text(machine.name) +
                           "\"; give each its own `name`, or use `count`");
    }
  }
  return {};
}

Result<void> check_pairs(const Pool& pool) {
  const std::size_t n = pool.machines.size();
  std::unordered_set<std::size_t> seen;
  for (const PairLink& pair : pool.pairs) {
    if (pair.a >= n || pair.b >= n) {
      return invalid_input("a pair names machine " + std::to_string(std::max(pair.a, pair.b)) +
                           ", but the last one is " + std::to_string(n - 1));
    }
    const auto [low, high] = std::minmax(pair.a, pair.b);
    if (low == high) {
      return invalid_input("a pair joins machine \"" + shown_text(pool.machines[low].name) +
                           "\" to itself");
    }
    if (!seen.insert(low * n + high).second) {
      return invalid_input("two pairs join \"" + shown_text(pool.machines[low].name) + "\" and \"" +
                           shown_text(pool.machines[high].name) + "\"");
    }
    TRY(check(pair.link));
  }
  return {};
}

Result<void> check_connected(const Pool& pool) {
  Groups groups(pool.machines.size());
  for (const PairLink& pair : pool.pairs) groups.join(pair.a, pair.b);
  for (std::size_t i = 1; i < pool.machines.size(); ++i) {
    if (groups.find(i) == groups.find(0)) continue;
    return invalid_input("no chain of links joins machines \"" + shown_text(pool.machines[0].name) +
                         "\" and \"" + shown_text(pool.machines[i].name) +
                         "\"; give a `link` for all of them");
  }
  return {};
}

}  // namespace

Result<void> check(const Machine& machine) {
  if (machine.name.empty()) return invalid_input("a machine without a name");
  const std::string owner = named("machine", machine.name);
  TRY(check_values(owner, {
                              {"memory_bytes", machine.memory_bytes, 1.0, kBytesMax},
                              {"usable_bytes", machine.usable_bytes, 1.0, kBytesMax},
                              {"peak_bandwidth", machine.peak_bandwidth, 1.0, kRateMax},
                              {"efficiency", machine.efficiency, kSmallest, 1.0},
                              {"prefill_flops", machine.prefill_flops, 1.0, kFlopsMax},
                              {"cache_bytes", machine.cache_bytes, 0.0, kBytesMax},
                              {"idle_watts", machine.idle_watts, 0.0, kWattsMax},
                              {"load_watts", machine.load_watts, 0.0, kWattsMax},
                              {"price_usd", machine.price_usd, 0.0, kUsdMax},
                              {"dispatch_seconds", machine.dispatch_seconds, 0.0, kSecondsMax},
                              {"expert_seconds", machine.expert_seconds, 0.0, kSecondsMax},
                              {"step_seconds", machine.step_seconds, 0.0, kSecondsMax},
                              {"unsteadiness", machine.unsteadiness, 0.0, 1.0},
                          }));
  for (std::size_t f = 0; f < kFormats; ++f) {
    TRY(check_values(owner,
                     {{"gemv_bandwidth", machine.gemv_bandwidth[f], 0.0, kRateMax},
                      {"cache_gemv_bandwidth", machine.cache_gemv_bandwidth[f], 0.0, kRateMax}}));
  }
  if (machine.usable_bytes > machine.memory_bytes) {
    return invalid_input(owner + ": usable memory (" + number_text(machine.usable_bytes / 1e9) +
                         " GB) is more than memory (" + number_text(machine.memory_bytes / 1e9) +
                         " GB)");
  }
  return {};
}

Result<void> check(const Link& link) {
  return check_values(named("link", link.name),
                      {{"latency_seconds", link.latency_seconds, 0.0, kSecondsMax},
                       {"jitter_seconds", link.jitter_seconds, 0.0, kSecondsMax},
                       {"bandwidth", link.bandwidth, 1.0, kRateMax}});
}

Result<void> check(const Software& software) {
  const std::string owner = named("software", software.name);
  for (std::size_t d = 0; d < kDeviceClasses; ++d) {
    const auto& dispatch = software.dispatch_seconds[d];
    TRY(check_values(owner, {{"dispatch_seconds", dispatch[0], 0.0, kSecondsMax},
                             {"dispatch_seconds", dispatch[1], 0.0, kSecondsMax},
                             {"efficiency", software.efficiency[d], kSmallest, 10.0}}));
  }
  for (const ExchangeCost& cost : software.exchange) {
    TRY(check_values(owner, {{"overhead_seconds", cost.overhead_seconds, 0.0, kSecondsMax},
                             {"per_peer_seconds", cost.per_peer_seconds, 0.0, kSecondsMax}}));
  }
  TRY(check_values(owner,
                   {{"hop_seconds", software.hop_seconds, 0.0, kSecondsMax},
                    {"wire_bytes_per_element", software.wire_bytes_per_element, 1.0 / 16.0, 8.0},
                    {"int4_extra_bytes", software.int4_extra_bytes, 0.0, 8.0}}));
  if (std::ranges::find(software.strategies, true) == software.strategies.end()) {
    return invalid_input(owner + ": has no strategy");
  }
  return {};
}

Result<void> check(const Quant& quant) {
  const std::string owner = named("quant", quant.name);
  for (std::size_t p = 0; p < kParts; ++p) {
    TRY(check_values(
        owner + ": " + std::string(name_of(static_cast<Part>(p))),
        {{"bytes_per_parameter", quant.parts[p].bytes_per_parameter, 0.0625, kParameterBytesMax}}));
  }
  return check_values(owner, {{"kv_bytes_per_element", quant.kv_bytes_per_element, 0.0625, 8.0}});
}

Result<void> check(const Workload& workload) {
  const auto number = [](std::size_t count) { return static_cast<double>(count); };
  const Speculation& draft = workload.speculation;
  TRY(check_values(
      "workload",
      {{"batch", number(workload.batch), 1.0, number(kBatchMax)},
       {"context", number(workload.context), 0.0, number(kContextMax)},
       {"prompt", number(workload.prompt), 1.0, number(kContextMax)},
       {"reserve", number(workload.reserve_tokens), 0.0, number(kTokensMax)},
       {"zipf", workload.zipf, 0.0, kZipfMax},
       {"speculation.draft_tokens", number(draft.draft_tokens), 0.0, number(kDraftTokensMax)}}));
  TRY(check_values("workload",
                   {{"speculation.accepted", draft.accepted, 1.0, number(draft.draft_tokens) + 1.0},
                    {"speculation.overlap", draft.expert_overlap, 0.0, 1.0},
                    {"speculation.draft_seconds", draft.draft_seconds, 0.0, kSecondsMax}}));
  if (workload.reserve_tokens < workload.batch * workload.context) {
    return invalid_input("workload: reserve is " + std::to_string(workload.reserve_tokens) +
                         " tokens, but batch * context is " +
                         std::to_string(workload.batch * workload.context));
  }
  return {};
}

Result<void> check(const Policy& policy) {
  return check_values("policy",
                      {{"expert_copies", static_cast<double>(policy.expert_copies), 1.0,
                        static_cast<double>(kExpertCopiesMax)},
                       {"cover_losses", static_cast<double>(policy.cover_losses), 0.0, 1.0},
                       {"lifetime_years", policy.lifetime_years, 1e-3, kYearsMax},
                       {"utilisation", policy.utilisation, 1e-6, 1.0},
                       {"usd_per_kwh", policy.usd_per_kwh, 0.0, 1e6}});
}

Result<void> check(const Pool& pool) {
  TRY(check_machines(pool.machines));
  if (pool.link) TRY(check(*pool.link));
  TRY(check_pairs(pool));
  if (pool.link) return {};
  return check_connected(pool);
}

Result<void> check(const Cluster& cluster) {
  TRY(check(cluster.pool));
  TRY(check(cluster.model.architecture));
  TRY(check(cluster.model.quant));
  TRY(check(cluster.software));
  TRY(check(cluster.workload));
  TRY(check(cluster.policy));
  const auto& wanted = cluster.policy.strategy;
  if (wanted && !cluster.software.strategies[static_cast<std::size_t>(*wanted)]) {
    return invalid_input("software \"" + shown_text(cluster.software.name) + "\" has no strategy " +
                         std::string(name_of(*wanted)));
  }
  if (cluster.measured_tokens_per_second) {
    TRY(check_values(
        "measured", {{"tokens_per_second", *cluster.measured_tokens_per_second, kSmallest, 1e12}}));
  }
  return {};
}

}  // namespace conclave::plan
