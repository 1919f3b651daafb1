#include "apps/plan_outcome.h"

#include <fmt/format.h>

#include <utility>

namespace conclave::apps {

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
  outcome.machines_needed = plan::machines_needed(subject.cluster);
  return outcome;
}

Result<Outcome> plan_subject(const Subject& subject, const plan::EventOptions& events) {
  Outcome outcome = TRY(plan_subject(subject));
  if (outcome.plan && outcome.plan->placement.ranks.size() > plan::kEventRanksMax) {
    return unsupported(fmt::format("--events: {} ranks, at most {} are played event by event",
                                   outcome.plan->placement.ranks.size(), plan::kEventRanksMax));
  }
  if (outcome.plan) {
    outcome.events = plan::predict_events(outcome.cluster, outcome.plan->placement, events);
  }
  return outcome;
}

}  // namespace conclave::apps
