// The worker's end of the control socket.
#pragma once

#include <mutex>
#include <span>
#include <vector>

#include "base/result.h"
#include "cluster/worker_process.h"
#include "wire/wire.h"

namespace conclave::cluster {

class WorkerChannel {
 public:
  // Takes the descriptor, which must be a blocking stream socket.
  explicit WorkerChannel(int fd) : fd_(fd) {}
  WorkerChannel(const WorkerChannel&) = delete;
  WorkerChannel& operator=(const WorkerChannel&) = delete;

  // Blocks until the agent's side has taken it all. Any thread. False: the agent is gone.
  bool send(std::span<const wire::pb::FromWorker> messages);
  bool send(const wire::pb::FromWorker& message) { return send(std::span(&message, 1)); }

  // All that has arrived; with `wait`, at least one. One thread. kUnavailable: the agent is gone;
  // kCorrupt: it broke the protocol. Either way the worker has to end.
  Result<std::vector<wire::pb::ToWorker>> receive(bool wait);

 private:
  Result<bool> read_some(bool wait);  // false: nothing there

  FileDescriptor fd_;
  std::mutex send_mutex_;
  wire::FrameReader reader_;
};

}  // namespace conclave::cluster
