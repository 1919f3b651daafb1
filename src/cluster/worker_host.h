// A Node with a real worker process: starts and ends it, carries messages, keeps its memory.
//
// Threads: one thread calls a WorkerHost, and that thread must outlive it (workers end with it).
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "cluster/node.h"
#include "cluster/worker_process.h"
#include "wire/wire.h"

namespace conclave::cluster {

struct WorkerHostOptions {
  std::string program = "/proc/self/exe";  // run with worker_arguments()
  WorkerOptions worker;                    // its descriptors and pid are the host's to fill
  NodeOptions node;
};

struct WorkerHostHandlers {
  std::function<void(const wire::pb::Report&)> on_report;       // for the head
  std::function<void(const wire::pb::FromWorker&)> on_message;  // tokens, prefill, stats, traces
};

class WorkerHost {
 public:
  // `clock` must outlive it.
  static Result<std::unique_ptr<WorkerHost>> create(WorkerHostOptions options, const Clock& clock,
                                                    WorkerHostHandlers handlers);
  ~WorkerHost();  // kills and reaps the worker
  WorkerHost(const WorkerHost&) = delete;
  WorkerHost& operator=(const WorkerHost&) = delete;

  int fd() const { return epoll_.get(); }  // readable when poll() has something to do
  // Never blocks; at least every 50 ms. Handlers run inside.
  void poll();

  void on_assignment(const wire::pb::Assignment& assignment);
  void on_head();
  void on_head_gone();
  // To the worker, if there is one that can listen.
  void tell(const wire::pb::ToWorker& message);
  // For workers that are started from now on.
  void keep(const std::string& name, FileDescriptor memory);

  const Node& node() const { return node_; }
  int worker_pid() const { return worker_ ? worker_->pid() : 0; }

 private:
  WorkerHost(WorkerHostOptions options, const Clock& clock, WorkerHostHandlers handlers,
             FileDescriptor epoll);
  void act();
  void perform(NodeAction& action);
  void spawn();
  void read_worker();
  void take_rights(const void* header);
  void handle_frames();
  void handle_keep(const wire::pb::Keep& keep);
  void write_worker();
  void reap_if_ended();
  void watch(int fd, std::uint32_t events, int operation);

  WorkerHostOptions options_;
  const Clock& clock_;
  WorkerHostHandlers handlers_;
  FileDescriptor epoll_;
  Node node_;
  std::optional<WorkerProcess> worker_;
  wire::FrameReader reader_;
  std::deque<FileDescriptor> received_;  // descriptors whose frames have not been read
  KeptMemory kept_;
  std::string out_;  // bytes that the worker's socket has not taken yet
  bool watching_writes_ = false;
  bool acting_ = false;
};

}  // namespace conclave::cluster
