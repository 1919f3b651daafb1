#include "cluster/worker_supervisor.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace conclave::cluster {
namespace {

constexpr int kDoublingsMax = 16;  // of the backoff

// What one tick may add to a worker's silence: more means that the agent was stopped or starved.
constexpr Duration kTickMax = std::chrono::milliseconds(250);

}  // namespace

WorkerSupervisor::Action WorkerSupervisor::on_tick(Time now) {
  const Duration passed = std::clamp(now - last_tick_, Duration::zero(), kTickMax);
  last_tick_ = now;
  if (phase_ == Phase::kWaiting) return now >= spawn_at_ ? Action::kSpawn : Action::kNone;
  if (!running()) return Action::kNone;

  silence_ += passed;
  stuck_ = busy_ ? stuck_ + passed : Duration::zero();
  if (silence_ >= options_.heartbeat_limit) {
    return on_lost("no heartbeat for " + std::to_string(seconds(silence_)) + " s");
  }
  if (stuck_ >= stuck_limit()) {
    return on_lost("no progress for " + std::to_string(seconds(stuck_)) + " s");
  }
  if (phase_ == Phase::kReady && now - ready_at_ >= options_.stable_after) ends_ = 0;
  return Action::kNone;
}

void WorkerSupervisor::on_spawned(Time now) {
  CHECK(phase_ == Phase::kWaiting);
  phase_ = Phase::kLoading;
  last_tick_ = now;
  silence_ = stuck_ = longest_ = Duration::zero();
  progress_ = 0;
  busy_ = true;
  lost_reason_.clear();
  ++spawns_;
}

void WorkerSupervisor::on_heartbeat(std::uint64_t progress, bool busy) {
  silence_ = Duration::zero();
  if (progress != progress_) {
    if (phase_ == Phase::kReady) longest_ = std::max(longest_, stuck_);
    stuck_ = Duration::zero();
  }
  progress_ = progress;
  busy_ = busy;
}

void WorkerSupervisor::on_ready(Time now) {
  if (phase_ != Phase::kLoading) return;
  phase_ = Phase::kReady;
  ready_at_ = now;
  stuck_ = Duration::zero();  // the loading's end is progress
  was_ready_ = reached_ready_ = true;
  failures_ = 0;
}

void WorkerSupervisor::on_token() { ends_ = 0; }

Duration WorkerSupervisor::stuck_limit() const {
  if (phase_ == Phase::kLoading) return options_.loading_limit;
  const Duration raised = std::min(longest_ * options_.progress_factor, options_.loading_limit);
  return std::max(options_.progress_limit, raised);
}

WorkerSupervisor::Action WorkerSupervisor::on_refused(std::string reason) {
  if (!running()) return Action::kNone;
  failure_ = std::move(reason);
  phase_ = Phase::kFailed;
  return Action::kKill;
}

WorkerSupervisor::Action WorkerSupervisor::on_lost(std::string reason) {
  if (!running()) return Action::kNone;
  lost_reason_ = std::move(reason);
  phase_ = Phase::kEnding;
  return Action::kKill;
}

WorkerSupervisor::Action WorkerSupervisor::on_unwanted(std::string reason) {
  unwanted_ = running();
  return on_lost(std::move(reason));
}

void WorkerSupervisor::on_exited(Time now, const std::string& how) {
  last_end_ = lost_reason_.empty() ? how : how + " after " + lost_reason_;
  if (phase_ != Phase::kFailed) count_end(now);
}

void WorkerSupervisor::count_end(Time now) {
  const bool was_well = std::exchange(reached_ready_, false);
  if (!std::exchange(unwanted_, false)) {
    ++ends_;
    if (!was_well) ++failures_;
  }
  if (failures_ >= options_.failures_max) {
    phase_ = Phase::kFailed;
    failure_ = "the worker ended " + std::to_string(failures_) +
               " times in a row before it was ready; the last time: " + last_end_;
    return;
  }
  phase_ = Phase::kWaiting;
  spawn_at_ = now;
  if (ends_ <= 1) return;
  const int doublings = std::min(ends_ - 2, kDoublingsMax);
  const Duration backoff = options_.backoff_first * (std::int64_t{1} << doublings);
  spawn_at_ += std::min(backoff, options_.backoff_max);
}

}  // namespace conclave::cluster
