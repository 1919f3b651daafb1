// The worker's end of the control socket.
#pragma once

#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "cluster/worker.h"
#include "wire/wire.h"

namespace conclave::cluster {

class WorkerChannel final : public AgentLink {
 public:
  // Takes the descriptor, which must be a blocking stream socket.
  explicit WorkerChannel(int fd) : fd_(fd) {}
  WorkerChannel(const WorkerChannel&) = delete;
  WorkerChannel& operator=(const WorkerChannel&) = delete;

  int fd() const override { return fd_.get(); }
  Result<std::vector<wire::pb::ToWorker>> receive(bool wait) override;
  // Blocks until the agent's side has taken it all.
  bool send(std::span<const wire::pb::FromWorker> messages) override;
  bool send(const wire::pb::FromWorker& message) { return send(std::span(&message, 1)); }

  // Shared memory for the workers that come after this one; `memory` stays the caller's. Any
  // thread. False: the agent is gone.
  bool keep(const std::string& name, int memory);
  bool drop(const std::string& name);

 private:
  Result<bool> read_some(bool wait);  // false: nothing there
  bool write(std::string_view bytes, int descriptor);

  FileDescriptor fd_;
  std::mutex send_mutex_;
  wire::FrameReader reader_;
};

}  // namespace conclave::cluster
