// Event by event: what the closed form of predict.cc cannot know, that is chance. A simulated rank
// does each phase of each layer, sends its partial to the others and waits for theirs.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "plan/events_run.h"
#include "plan/plan.h"

namespace conclave::plan {
namespace {

constexpr double kNoiseFactorMin = 0.1;  // work does not end before it began

// The smallest value that at least `share` of the sorted values do not exceed.
double percentile(const std::vector<double>& sorted, double share) {
  const double position = std::ceil(share * static_cast<double>(sorted.size()));
  return sorted[static_cast<std::size_t>(std::max(1.0, position)) - 1];
}

}  // namespace

double ComputeNoise::factor(std::size_t rank, std::size_t n) const {
  if (deviation_ == 0.0) return 1.0;
  sim::RandomStream random = random_.child(rank).child(n);
  return std::max(kNoiseFactorMin, 1.0 + deviation_ * random.normal());
}

EventPrediction predict_events(const Cluster& cluster, const Placement& placement,
                               const EventOptions& options) {
  const std::size_t n_ranks = placement.ranks.size();
  CHECK(n_ranks > 0 && n_ranks <= kEventRanksMax);
  CHECK(options.n_tokens > 0);
  CHECK(options.slow_rank.value_or(0) < n_ranks && options.lost_rank.value_or(0) < n_ranks);
  CHECK(options.compute_noise >= 0.0 && options.detect_seconds >= 0.0);
  const EventLog log = placement.strategy == Strategy::kPipeline
                           ? run_pipeline(cluster, placement, options)
                           : run_lockstep(cluster, placement, options);
  EventPrediction prediction;
  prediction.finished = log.finished;
  prediction.n_messages = log.n_messages;
  prediction.wait_share = log.rank_seconds > 0.0 ? log.wait_seconds / log.rank_seconds : 0.0;
  if (log.step_seconds.empty()) return prediction;

  const double accepted = cluster.workload.speculation.accepted;
  for (const double step : log.step_seconds) prediction.token_seconds.push_back(step / accepted);
  std::vector<double> sorted = prediction.token_seconds;
  std::sort(sorted.begin(), sorted.end());
  prediction.p50_seconds = percentile(sorted, 0.5);
  prediction.p95_seconds = percentile(sorted, 0.95);
  prediction.tokens_per_second = static_cast<double>(log.step_seconds.size()) * accepted *
                                 static_cast<double>(cluster.workload.batch) / log.total_seconds;
  return prediction;
}

}  // namespace conclave::plan
