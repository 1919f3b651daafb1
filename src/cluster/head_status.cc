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
  if (node.banned_until) return "left out: others cannot reach it";
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

HeadStatus Head::status(Time now) const {
  const State& s = *state_;
  HeadStatus status;
  status.epoch = s.epoch.number;
  status.epochs = s.epochs_formed;
  status.fresh_epochs = s.fresh_epochs;
  status.losses_survived = s.survives;
  status.rebuilding = s.rebuilding;
  status.open_requests = s.logs.size();
  status.stats = s.stats;
  if (s.layout.id != 0) status.layout = &s.layout;
  for (const auto& [id, node] : s.nodes) {
    NodeStatus out;
    out.node = id;
    out.name = node.facts.machine.name;
    out.alive = s.alive(node, now);
    out.drained = node.drained;
    out.in_epoch = s.epoch.live && std::ranges::find(s.epoch.ranks, id) != s.epoch.ranks.end();
    out.machine = node.facts.machine;
    out.holds = s.held(node);
    const bool complete = s.layout.id == 0 || (node.report.layout() == s.layout.id &&
                                               std::ranges::includes(out.holds, node.hold));
    out.state = state_text(node, out.alive, complete);
    out.has_files = s.layout.id != 0 && node.models.contains(s.layout.model);
    out.loaded_bytes = node.report.loaded_bytes();
    out.total_bytes = node.report.total_bytes();
    for (std::size_t v = 0; v < s.epoch.computing.size() && s.epoch.live; ++v) {
      if (s.epoch.computing[v] == id) out.computes.insert(v);
    }
    if (s.layout.id != 0) {
      if (!out.holds.empty()) out.weight_bytes = s.layout.common_bytes;
      for (const std::size_t v : out.holds) {
        out.weight_bytes += s.layout.virtual_ranks[v].weight_bytes;
      }
    }
    if (out.alive) {
      status.loaded_bytes += node.report.loaded_bytes();
      status.total_bytes += node.report.total_bytes();
    }
    if (id == kHeadNode) {
      status.backend = node.report.backend();
      status.context_max = node.report.context_max();
    }
    status.nodes.push_back(std::move(out));
  }
  if (s.layout.id == 0) {
    status.phase = HeadPhase::kGathering;
    status.text = s.placing_problem;
  } else if (s.short_since) {
    status.phase = HeadPhase::kShort;
    status.text = s.placing_problem;
  } else if (s.epoch.live && s.epoch.joined) {
    status.phase = HeadPhase::kRunning;
    status.text = s.rebuilding ? "running; backups are being loaded" : "running";
  } else {
    status.phase = s.epoch.live ? HeadPhase::kForming : HeadPhase::kLoading;
    status.text = s.epoch.live ? "machines are coming together" : "weights are being loaded";
  }
  return status;
}

}  // namespace conclave::cluster
