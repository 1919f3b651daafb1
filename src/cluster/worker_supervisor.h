// Decides when a worker is started, killed and given up. Pure: the time is an argument, and what
// has to be done comes back as an Action.
//
//   waiting ─spawn─► loading ─ready─► ready
//      ▲                └────── end ────┴──► ending ─exited─► waiting | failed
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"

namespace conclave::cluster {

struct SupervisorOptions {
  Duration heartbeat_limit = std::chrono::seconds(2);  // no heartbeat: the worker is killed
  // Loading without progress: killed. A tensor of many GB may come from a slow disk or a network.
  Duration loading_limit = std::chrono::seconds(300);
  // Busy without progress after that: killed. Progress is counted in operations, a few to a layer.
  // The heaviest first one, a chunk of 512 tokens through a layer of a model with 32 billion active
  // parameters, is half a TFLOP: 30 s are enough at 20 GFLOP/s, and machines with the memory for
  // such a model do far more.
  Duration progress_limit = std::chrono::seconds(30);
  // Attention grows with the context, chunk by chunk: the limit is raised to so many times the
  // longest operation that this worker has finished, up to `loading_limit`.
  int progress_factor = 8;
  Duration stable_after = std::chrono::seconds(2);  // ready so long: old failures are forgotten
  Duration backoff_first = std::chrono::milliseconds(100);  // doubles; the first restart is at once
  Duration backoff_max = std::chrono::seconds(5);
  // Ends in a row before the worker was ready; then the agent has failed. A worker that was ready
  // may have met a bad request: that request is given up, not the server.
  int failures_max = 5;
};

class WorkerSupervisor {
 public:
  enum class Phase : std::uint8_t { kWaiting, kLoading, kReady, kEnding, kFailed };
  enum class Action : std::uint8_t { kNone, kSpawn, kKill };

  explicit WorkerSupervisor(SupervisorOptions options) : options_(options) {}

  // Call often, at least every 100 ms. kSpawn must be answered by on_spawned() or on_exited().
  Action on_tick(Time now);

  void on_spawned(Time now);
  void on_heartbeat(std::uint64_t progress, bool busy);
  void on_ready(Time now);
  void on_token();  // a token was taken: the next restart is at once
  // The worker says that it cannot go on, e.g. because the weights are corrupt: no retry.
  Action on_refused(std::string reason);
  // Its socket closed, or it broke the protocol: whatever it is, it has to be gone before its
  // place is taken.
  Action on_lost(std::string reason);
  // It is not needed any more; no failure of its own.
  Action on_unwanted(std::string reason);
  // The process has been reaped. `how`: "killed by signal 9".
  void on_exited(Time now, const std::string& how);

  Phase phase() const { return phase_; }
  bool was_ready() const { return was_ready_; }
  std::uint64_t restarts() const { return spawns_ > 0 ? spawns_ - 1 : 0; }
  std::uint64_t spawns() const { return spawns_; }         // the running worker is this one
  const std::string& failure() const { return failure_; }  // of kFailed
  const std::string& last_end() const { return last_end_; }

 private:
  bool running() const { return phase_ == Phase::kLoading || phase_ == Phase::kReady; }
  void count_end(Time now);
  Duration stuck_limit() const;

  SupervisorOptions options_;
  Phase phase_ = Phase::kWaiting;
  Time spawn_at_{};  // in kWaiting; the epoch: at once
  Time ready_at_{};
  // Time without a sign of life, counted in ticks: a pause of the agent itself is not the
  // worker's fault.
  Time last_tick_{};
  Duration silence_{};
  Duration stuck_{};
  Duration longest_{};  // that this worker was stuck and went on, since it is ready
  std::uint64_t progress_ = 0;
  bool busy_ = false;
  bool was_ready_ = false;
  bool reached_ready_ = false;  // this worker, as opposed to any
  bool unwanted_ = false;       // the same
  int ends_ = 0;                // in a row without a token: they set the backoff
  int failures_ = 0;            // ends in a row before the worker was ready
  std::uint64_t spawns_ = 0;
  std::string lost_reason_;
  std::string failure_;
  std::string last_end_;
};

}  // namespace conclave::cluster
