#include "plan/explain_changes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>

namespace conclave::plan {
namespace {

// `text` gets the new prediction's numbers only after the change was tried.
struct Change {
  enum class Kind : std::uint8_t { kPlain, kLink, kBatch };
  Kind kind = Kind::kPlain;
  std::string text;
  Cluster cluster;
};

// Links that can be bought, slowest exchange first. docs/perf-model.md 1.2.
struct Rung {
  std::string_view words;
  Transport transport;
  double latency_seconds;
  double jitter_seconds;
  double bandwidth;
};
constexpr Rung kRdma = {"RDMA", Transport::kRdma, 6e-6, 1e-6, 5e9};
constexpr std::array<Rung, 5> kLadder = {{
    {"10 GbE", Transport::kTcp, 35e-6, 5e-6, 1.15e9},
    {"25 GbE", Transport::kTcp, 15e-6, 3e-6, 2.9e9},
    kRdma,
    {"RDMA at 100 Gb/s", Transport::kRdma, 5e-6, 1e-6, 11e9},
    {"NVLink", Transport::kNvlink, 1.5e-6, 0.2e-6, 450e9},
}};
// A rung that is hardly faster than what is there is not worth naming.
constexpr double kBetterExchange = 0.8;

Link link_of(const Rung& rung) {
  return {std::string(rung.words), std::string(rung.words), rung.transport,
          rung.latency_seconds,    rung.jitter_seconds,     rung.bandwidth};
}

Cluster with_link(const Cluster& cluster, const Rung& rung) {
  Cluster changed = cluster;
  changed.pool.link = link_of(rung);
  changed.pool.pairs.clear();
  return changed;
}

std::vector<std::size_t> machines_of(const Cluster& cluster, const Placement& placement) {
  std::vector<std::size_t> machines;
  for (const Rank& rank : placement.ranks) machines.push_back(rank.machine);
  if (machines.size() > 1) return machines;
  // One machine alone may be the best because of the links: then all of them are what to join.
  machines.clear();
  for (std::size_t i = 0; i < cluster.pool.machines.size(); ++i) machines.push_back(i);
  return machines;
}

// The next rung and, where that is still TCP, RDMA: the two answers people weigh.
void add_links(const Cluster& cluster, const Placement& placement, std::vector<Change>& changes) {
  const std::vector<std::size_t> machines = machines_of(cluster, placement);
  if (machines.size() < 2) return;
  const auto elements =
      static_cast<double>(cluster.model.architecture.hidden_size * cluster.workload.batch);
  const bool nvidia = std::ranges::all_of(cluster.pool.machines, [](const Machine& machine) {
    return machine.device == DeviceClass::kCuda;
  });
  const double wanted = kBetterExchange * exchange_seconds(cluster, machines, elements);
  const auto helps = [&](const Rung& rung) {
    if (rung.transport == Transport::kNvlink && !nvidia) return false;
    return exchange_seconds(with_link(cluster, rung), machines, elements) <= wanted;
  };
  const auto add = [&](const Rung& rung) {
    changes.push_back({Change::Kind::kLink, std::string(rung.words), with_link(cluster, rung)});
  };
  const auto next = std::ranges::find_if(kLadder, helps);
  if (next == kLadder.end()) return;
  add(*next);
  if (next->transport == Transport::kTcp) add(kRdma);
}

void add_dispatch(const Cluster& cluster, const Prediction& prediction,
                  std::vector<Change>& changes) {
  if (prediction.split.dispatch <= 0.0) return;
  Change change{Change::Kind::kPlain, {}, cluster};
  for (auto& of_device : change.cluster.software.dispatch_seconds) {
    for (double& seconds : of_device) seconds /= 2.0;
  }
  for (Machine& machine : change.cluster.pool.machines) {
    machine.dispatch_seconds /= 2.0;
    machine.expert_seconds /= 2.0;
    machine.step_seconds /= 2.0;
  }
  const auto n_layers = static_cast<double>(cluster.model.architecture.n_layers);
  const double per_layer = prediction.split.dispatch / n_layers;
  change.text = fmt::format("half the kernel dispatch cost ({} a layer in place of {})",
                            duration_text(per_layer / 2.0), duration_text(per_layer));
  changes.push_back(std::move(change));
}

void add_format(const Cluster& cluster, PartFormat format, std::string_view words,
                std::vector<Change>& changes) {
  Change change{Change::Kind::kPlain, {}, cluster};
  std::string names;
  // The router stays: it is small, and its errors choose other experts. The embedding is not read.
  for (const Part part : {Part::kAttention, Part::kAttentionSmall, Part::kShared, Part::kRouted,
                          Part::kDense, Part::kHead}) {
    if (read_bytes(cluster.model, part) <= 0.0) continue;
    PartFormat& of_part = change.cluster.model.quant.of(part);
    if (of_part.format != Format::kBf16) continue;
    of_part = format;
    // To a reader the two parts of attention are one.
    if (part == Part::kAttentionSmall && !names.empty()) continue;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name_of(part));
  }
  if (names.empty()) return;
  change.text = fmt::format("{} weights where there are 16 bits now ({})", words, names);
  changes.push_back(std::move(change));
}

std::string unused_name(const Pool& pool, std::string_view base) {
  for (std::size_t number = 2;; ++number) {
    std::string name = fmt::format("{}-{}", base, number);
    const bool taken = std::ranges::any_of(
        pool.machines, [&name](const Machine& machine) { return machine.name == name; });
    if (!taken) return name;
  }
}

void add_machine(const Cluster& cluster, std::vector<Change>& changes) {
  const Pool& pool = cluster.pool;
  if (pool.machines.empty()) return;
  const bool alone = pool.machines.size() == 1;
  // Joined by named pairs only: where its cables would go is not for us to guess.
  if (!pool.link && !alone) return;
  Change change{Change::Kind::kPlain, {}, cluster};
  Machine machine = pool.machines.back();
  change.text = fmt::format("one more machine like {}", machine.name);
  machine.name = unused_name(pool, machine.name);
  change.cluster.pool.machines.push_back(std::move(machine));
  if (!pool.link) {
    change.cluster.pool.link = link_of(kLadder[0]);
    change.text += fmt::format(", joined by {}", kLadder[0].words);
  }
  changes.push_back(std::move(change));
}

void add_speculation(const Cluster& cluster, const Prediction& prediction,
                     std::vector<Change>& changes) {
  if (cluster.workload.speculation.draft_tokens != 0) return;
  constexpr std::size_t kDrafts = 3;
  constexpr double kAccepted = 2.35;  // general chat, public drafts; docs/perf-model.md 3.5
  // A draft model is about one layer and a head: three drafts cost about four layers of ours.
  const auto n_layers = static_cast<double>(cluster.model.architecture.n_layers);
  const double draft_seconds = prediction.step_seconds * std::min(1.0, 4.0 / n_layers);
  Change change{Change::Kind::kPlain, {}, cluster};
  change.cluster.workload.speculation = {kDrafts, kAccepted, 0.0, draft_seconds};
  change.text =
      fmt::format("speculation with {} drafts a step, {} tokens accepted", kDrafts, kAccepted);
  changes.push_back(std::move(change));
}

void add_batch(const Cluster& cluster, std::vector<Change>& changes) {
  constexpr std::size_t kUsers = 8;
  if (cluster.workload.batch != 1) return;
  Change change{Change::Kind::kBatch, fmt::format("{} users at once", kUsers), cluster};
  Workload& workload = change.cluster.workload;
  workload.batch = kUsers;
  workload.reserve_tokens = std::max(workload.reserve_tokens, kUsers * workload.context);
  changes.push_back(std::move(change));
}

std::string text_of(const Change& change, const Prediction& prediction) {
  switch (change.kind) {
    case Change::Kind::kPlain:
      return change.text;
    case Change::Kind::kLink:
      return fmt::format("a link with {} exchanges ({})",
                         duration_text(prediction.exchange_seconds), change.text);
    case Change::Kind::kBatch:
      return fmt::format("{} ({:.1f} tok/s each)", change.text,
                         prediction.stream_tokens_per_second);
  }
  return change.text;
}

}  // namespace

std::string duration_text(double seconds) {
  const double us = seconds * 1e6;
  if (us < 9.95) return fmt::format("{:.1f} us", us);
  if (us < 999.5) return fmt::format("{:.0f} us", us);
  if (us < 1e5) return fmt::format("{:.1f} ms", us / 1e3);
  if (us < 999.5e3) return fmt::format("{:.0f} ms", us / 1e3);
  return fmt::format("{:.1f} s", seconds);
}

std::optional<Prediction> best_prediction(const Cluster& cluster) {
  const Result<Placement> placement = best_placement(cluster);
  if (!placement) return std::nullopt;
  return predict(cluster, *placement);
}

std::vector<Improvement> improvements_of(const Cluster& cluster, const Placement& placement,
                                         const Prediction& prediction) {
  const bool explored = cluster.pool.machines.size() <= kExploredMachinesMax;
  std::vector<Change> changes;
  add_dispatch(cluster, prediction, changes);
  add_links(cluster, placement, changes);
  if (explored) {
    add_format(cluster, {Format::kInt8, 1.0625}, "8-bit", changes);
    add_format(cluster, {Format::kInt4, 0.5625}, "4-bit", changes);
    add_machine(cluster, changes);
    add_speculation(cluster, prediction, changes);
    add_batch(cluster, changes);
  }
  std::vector<Improvement> improvements;
  std::vector<Improvement> other_uses;
  for (const Change& change : changes) {
    const std::optional<Prediction> then =
        explored ? best_prediction(change.cluster) : predict(change.cluster, placement);
    if (!then || !(then->tokens_per_second >= kGainMin * prediction.tokens_per_second)) continue;
    // More users get more tokens together, not an answer sooner: that stands last.
    auto& list = change.kind == Change::Kind::kBatch ? other_uses : improvements;
    list.push_back({text_of(change, *then), then->tokens_per_second});
  }
  std::ranges::stable_sort(improvements, std::ranges::greater{}, &Improvement::tokens_per_second);
  if (improvements.size() > kImprovementsMax - 1) improvements.resize(kImprovementsMax - 1);
  improvements.insert(improvements.end(), other_uses.begin(), other_uses.end());
  return improvements;
}

}  // namespace conclave::plan
