// The worker's main loop: what the agent says goes into an Engine, what the engine says goes back.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "cluster/worker_channel.h"
#include "engine/engine.h"

namespace conclave::cluster {

// What the heartbeat thread reports; written by the thread that works. `progress` moves with every
// operation of a step, so a layer that hangs is told from a step that is long.
struct WorkerPulse {
  std::atomic<std::uint64_t> progress{0};
  std::atomic<bool> busy{true};  // loading comes first
};

class WorkerLoop {
 public:
  // All four must outlive the loop.
  WorkerLoop(engine::Engine& engine, WorkerChannel& channel, WorkerPulse& pulse, const Clock& clock)
      : engine_(engine), channel_(channel), pulse_(pulse), clock_(clock) {}
  WorkerLoop(const WorkerLoop&) = delete;
  WorkerLoop& operator=(const WorkerLoop&) = delete;

  // Returns when the agent is gone (kUnavailable) or broke the protocol (kCorrupt).
  Error run();

 private:
  struct Open {
    std::uint32_t attempt = 0;
    bool has_token = false;  // prefill is reported until then
  };

  Result<void> receive();
  Result<void> handle(const wire::pb::ToWorker& message);
  Result<void> admit(const wire::pb::Admit& message);
  void step();
  void add_token(const engine::TokenEvent& event);
  void add_prefill(RequestId id, const Open& open, std::uint64_t done, std::uint64_t total);
  void add_reports();
  Result<void> flush();

  engine::Engine& engine_;
  WorkerChannel& channel_;
  WorkerPulse& pulse_;
  const Clock& clock_;
  std::map<RequestId, Open> open_;
  std::vector<wire::pb::FromWorker> outbox_;
  std::optional<Time> reported_at_;
};

}  // namespace conclave::cluster
