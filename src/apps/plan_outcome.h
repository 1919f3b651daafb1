// What planning one cluster gave: a plan, or what it is short of.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "apps/plan_subject.h"
#include "base/result.h"
#include "plan/plan.h"

namespace conclave::apps {

struct Outcome {
  plan::Cluster cluster;
  std::vector<std::string> notes;  // Subject::notes
  std::optional<plan::Plan> plan;  // absent: does not fit
  // Only when it does not fit.
  std::string missing;              // names the bytes
  std::size_t machines_needed = 0;  // all like the last one; 0: no number of them holds it
  // Only when asked for.
  std::optional<plan::EventPrediction> events;

  bool fits() const { return plan.has_value(); }
};

// Errors: the cluster is wrong. Not fitting is an outcome.
Result<Outcome> plan_subject(const Subject& subject);
Result<Outcome> plan_subject(const Subject& subject, const plan::EventOptions& events);

}  // namespace conclave::apps
