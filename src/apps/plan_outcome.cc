#include "apps/plan_outcome.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace conclave::apps {
namespace {

// The smallest number of machines that holds the model; 0: none of those tried.
std::size_t machines_needed(const plan::Cluster& cluster) {
  const std::vector<plan::Machine>& machines = cluster.pool.machines;
  double missing = plan::stored_bytes(cluster.model);
  for (const plan::Machine& machine : machines) missing -= machine.usable_bytes;
  const double more = std::max(1.0, std::ceil(missing / machines.back().usable_bytes));
  if (more > static_cast<double>(plan::kMachinesMax - machines.size())) return 0;
  const std::size_t first = machines.size() + static_cast<std::size_t>(more);
  plan::Cluster larger = cluster;
  larger.policy.cover_losses = 0;
  // One machine alone has no link. Any will do: what fits does not depend on it.
  if (!larger.pool.link) {
    plan::Link any;
    any.name = "any";
    any.latency_seconds = 1e-5;
    any.bandwidth = 1e9;
    larger.pool.link = any;
  }
  for (std::size_t count = first; count < first + kMachinesTriedMax; ++count) {
    if (count > plan::kMachinesMax || !set_nodes(larger, count)) return 0;
    if (plan::best_placement(larger)) return count;
  }
  return 0;
}

}  // namespace

Result<Outcome> plan_subject(const Subject& subject) {
  Outcome outcome;
  outcome.cluster = subject.cluster;
  outcome.notes = subject.notes;
  Result<plan::Plan> plan = plan::make_plan(subject.cluster);
  if (plan) {
    outcome.plan = std::move(*plan);
    return outcome;
  }
  if (plan.error().code != ErrorCode::kExhausted) return plan.error();
  outcome.missing = std::move(plan.error().message);
  outcome.machines_needed = machines_needed(subject.cluster);
  return outcome;
}

Result<Outcome> plan_subject(const Subject& subject, const plan::EventOptions& events) {
  Outcome outcome = TRY(plan_subject(subject));
  if (outcome.plan) {
    outcome.events = plan::predict_events(outcome.cluster, outcome.plan->placement, events);
  }
  return outcome;
}

}  // namespace conclave::apps
