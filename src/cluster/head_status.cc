// What the head knows, for people and programs.
#include <algorithm>
#include <cmath>

#include "cluster/head_state.h"

namespace conclave::cluster {
namespace {

// `complete`: what it is to hold is in its memory.
std::string state_text(const NodeState& node, bool alive, bool complete) {
  if (node.removed) return "removed";
  if (!node.connected) return "gone";
  if (node.banned_until) return "left out for a while";
  if (!alive)
    return node.report.worker() == wire::pb::WORKER_FAILED ? "failed: " + node.report.error()
                                                           : "silent";
  const wire::pb::Report& report = node.report;
  const bool loading = report.worker() == wire::pb::WORKER_LOADING || !complete;
  if (report.worker() == wire::pb::WORKER_STARTING) return "starting";
  if (loading && report.total_bytes() > 0) {
    const double share = 100.0 * static_cast<double>(report.loaded_bytes()) /
                         static_cast<double>(report.total_bytes());
    return "loading " + std::to_string(std::lround(share)) + " %";
  }
  if (loading) return "loading";
  if (report.worker() == wire::pb::WORKER_READY) return node.drained ? "drained" : "ready";
  return "waiting";
}

}  // namespace

HeadSummary Head::summary(Time now) const {
  const State& s = *state_;
  HeadSummary summary;
  summary.epoch = s.epoch.number;
  summary.epochs = s.epochs_formed;
  summary.fresh_epochs = s.fresh_epochs;
  summary.losses_survived = s.survives;
  summary.rebuilding = s.rebuilding;
  summary.open_requests = s.logs.size();
  summary.stats = s.stats;
  if (s.layout.id != 0) summary.layout = &s.layout;
  for (const auto& [id, node] : s.nodes) {
    if (s.alive(node, now)) {
      summary.loaded_bytes += node.report.loaded_bytes();
      summary.total_bytes += node.report.total_bytes();
    }
    if (id == kHeadNode) {
      summary.backend = node.report.backend();
      summary.context_max = node.report.context_max();
    }
  }
  if (s.layout.id == 0) {
    summary.phase = HeadPhase::kGathering;
    summary.text = s.placing_problem;
  } else if (s.short_for) {
    summary.phase = HeadPhase::kShort;
    summary.text = s.placing_problem;
  } else if (s.epoch.live && s.epoch.joined) {
    summary.phase = HeadPhase::kRunning;
    summary.text = s.rebuilding ? "running; backups are being loaded" : "running";
  } else {
    summary.phase = s.epoch.live ? HeadPhase::kForming : HeadPhase::kLoading;
    summary.text = s.epoch.live ? "machines are coming together" : "weights are being loaded";
  }
  return summary;
}

HeadStatus Head::status(Time now) const {
  const State& s = *state_;
  HeadStatus status{summary(now), {}};
  for (const auto& [id, node] : s.nodes) status.nodes.push_back(s.status_of(node, now));
  return status;
}

NodeStatus Head::State::status_of(const NodeState& node, Time now) const {
  NodeStatus out;
  out.node = node.facts.node;
  out.name = node.facts.machine.name;
  out.alive = alive(node, now);
  out.drained = node.drained;
  out.in_epoch = epoch.live && std::ranges::find(epoch.ranks, out.node) != epoch.ranks.end();
  out.machine = node.facts.machine;
  out.holds = held(node);
  const bool complete = layout.id == 0 || (node.report.layout() == layout.id &&
                                           std::ranges::includes(out.holds, node.hold));
  out.state = state_text(node, out.alive, complete);
  out.has_files = layout.id != 0 && node.models.contains(layout.model);
  out.loaded_bytes = node.report.loaded_bytes();
  out.total_bytes = node.report.total_bytes();
  for (std::size_t v = 0; v < epoch.computing.size() && epoch.live; ++v) {
    if (epoch.computing[v] == out.node) out.computes.insert(v);
  }
  if (layout.id == 0) return out;
  if (!out.holds.empty()) out.weight_bytes = layout.common_bytes;
  for (const std::size_t v : out.holds) out.weight_bytes += layout.virtual_ranks[v].weight_bytes;
  return out;
}

}  // namespace conclave::cluster
