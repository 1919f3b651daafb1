// One machine's part of the pool: its worker's life, and what the head is told of it. Sans-I/O:
// events with their time go in, actions come out. The head's own machine is a Node too.
//
// A node leases itself to one head: if that falls silent, the worker is ended (its weights and KV
// cache stay in the agent's memory), so that no rank goes on in an epoch that the head has given
// up.
//
// Threads: one thread calls a Node.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "cluster/worker_supervisor.h"
#include "wire/wire.h"

namespace conclave::cluster {

struct NodeOptions {
  SupervisorOptions supervisor;
  Duration lease = std::chrono::milliseconds(2500);  // without an assignment: the worker ends
  Duration report_every = std::chrono::milliseconds(100);
};

struct SpawnWorker {};  // answered by on_spawned() or on_worker_exited()
struct KillWorker {};   // answered by on_worker_exited()
struct TellWorker {
  wire::pb::ToWorker message;
};
struct TellHead {
  wire::pb::Report report;
};
using NodeAction = std::variant<SpawnWorker, KillWorker, TellWorker, TellHead>;

class Node {
 public:
  explicit Node(const NodeOptions& options);
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  void on_assignment(Time now, const wire::pb::Assignment& assignment);
  // Connected to a head (again): assignments count from 1, and a report is due.
  void on_head(Time now);
  void on_head_gone(Time now);

  void on_spawned(Time now);
  void on_worker(Time now, const wire::pb::FromWorker& message);
  void on_worker_closed(Time now);  // its socket ended: it has to be gone
  // It has been reaped, or could not be started. `how`: "killed by signal 9".
  void on_worker_exited(Time now, const std::string& how);
  // At least every 50 ms.
  void on_tick(Time now);

  std::vector<NodeAction> take_actions();
  const WorkerSupervisor& supervisor() const;
  const wire::pb::Report& report() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::cluster
