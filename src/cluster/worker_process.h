// One worker process: started with its socket, the memory kept for it and nothing else of the
// agent's, killed and reaped with the object.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "cluster/worker_options.h"

namespace conclave::cluster {

// Shared memory that an agent keeps for its workers, by name.
using KeptMemory = std::map<std::string, FileDescriptor>;

class WorkerProcess {
 public:
  // Runs `program` with worker_arguments(options); the worker finds its end of a new socket and
  // copies of what is kept at the descriptors its arguments name.
  static Result<WorkerProcess> spawn(const std::string& program, WorkerOptions options,
                                     const KeptMemory& kept);

  WorkerProcess(WorkerProcess&& other) noexcept;
  WorkerProcess& operator=(WorkerProcess&&) = delete;
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;
  ~WorkerProcess();  // kills and reaps

  int pid() const { return pid_; }
  int control_fd() const { return control_.get(); }  // non-blocking; -1 after close_control()
  int exit_fd() const { return exit_.get(); }        // readable when the process has ended
  void close_control() { control_.reset(); }
  void kill();
  // Call when exit_fd() is readable. "exit status 1", "killed by signal 9".
  std::string reap();

 private:
  WorkerProcess(int pid, FileDescriptor control, FileDescriptor exit)
      : pid_(pid), control_(std::move(control)), exit_(std::move(exit)) {}

  int pid_ = 0;  // 0 after reap()
  FileDescriptor control_;
  FileDescriptor exit_;
};

}  // namespace conclave::cluster
