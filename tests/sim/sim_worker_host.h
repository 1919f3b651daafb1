// A Node with a simulated worker process: as WorkerHost.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent_thread.h"
#include "cluster/node.h"
#include "cluster/worker.h"
#include "runner.h"
#include "sim_host.h"

namespace conclave::cluster_sim {

// What is the same on all machines of a simulated pool.
struct PoolParts {
  Surroundings& around;
  const SimModel& model;
  SimTimes times;
  engine::EngineOptions engine;
  cluster::WorkerLimits limits;
  cluster::NodeOptions node;
  // A broken promise.
  std::function<void(std::string)> fail;
  // A worker has ended on this node, whatever of.
  std::function<void(std::size_t node)> worker_ended;
};

class SimWorkerHost {
 public:
  struct Handlers {
    std::function<void(const wire::pb::Report&)> on_report;       // for the head
    std::function<void(const wire::pb::FromWorker&)> on_message;  // tokens, prefill, stats
  };
  // `thread` is its agent's; all references must outlive it.
  SimWorkerHost(const PoolParts& parts, AgentThread& thread, std::size_t node, Handlers handlers);
  ~SimWorkerHost();
  SimWorkerHost(const SimWorkerHost&) = delete;
  SimWorkerHost& operator=(const SimWorkerHost&) = delete;

  void poll();
  void on_assignment(const wire::pb::Assignment& assignment);
  void on_head();
  void on_head_gone();
  void tell(const wire::pb::ToWorker& message);
  const cluster::Node& node() const { return node_; }

  // Faults. False: there is no worker process.
  bool crash_worker();
  bool hang_worker();   // all of it: its heartbeat too
  bool stick_worker();  // its main thread only
  void unhang_worker();
  bool worker_hangs() const;

 private:
  struct Worker;  // a life of it
  struct Epochs;

  void act();
  void perform(cluster::NodeAction& action);
  void spawn();
  void beat();
  void read_worker(bool ended);
  void bury(const std::string& how);
  void repeat_token(const wire::pb::FromWorker& message);
  void check_fencing();
  Time now() const { return parts_.around.machinery.world.now(); }

  const PoolParts& parts_;
  AgentThread& thread_;
  std::size_t node_number_;
  Handlers handlers_;
  AgentMemory memory_;
  cluster::Node node_;
  std::unique_ptr<Worker> worker_;
  std::uint64_t n_workers_ = 0;
  bool dying_ = false;
  bool acting_ = false;
  // What the head has asked for, and for how many ticks it has been silent.
  int ticks_since_assignment_ = 0;
  bool leased_ = false;
  std::uint64_t asked_to_kill_ = 0;  // the worker of this number
  int ticks_since_kill_ = 0;
};

}  // namespace conclave::cluster_sim
