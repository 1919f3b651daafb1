// One worker process: started with its two descriptors and nothing else of the agent's, killed and
// reaped with the object.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "cluster/cluster.h"

namespace conclave::cluster {

// Owns a file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { reset(); }

  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

class WorkerProcess {
 public:
  // Runs `program` with worker_arguments(options); the worker finds its end of a new socket and a
  // copy of `arena_fd` at the descriptors its arguments name.
  static Result<WorkerProcess> spawn(const std::string& program, WorkerOptions options,
                                     int arena_fd);

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
