// The part of the prediction that placement searches by.
#pragma once

#include "plan/plan.h"

namespace conclave::plan {

// Seconds of one decode step of `batch` streams, by cause.
TimeSplit predict_step(const Cluster& cluster, const Placement& placement, std::size_t batch);

}  // namespace conclave::plan
