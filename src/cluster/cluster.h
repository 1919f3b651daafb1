// The agents: they own weights and KV cache in shared memory, keep worker processes alive, and make
// one memory pool of several machines. The head's agent keeps every answer going.
//
//   auto agent = TRY(cluster::Agent::create(options, clock, handlers));
//   agent->submit(request);                    // then handlers.on_token(...) in index order
//   while (running) { wait until agent->fd() is readable, at most 50 ms; agent->poll(); }
//
// Workers and machines may die at any moment. Each open request has a token log here; whatever
// computes next gets the request again with a higher attempt and what was already sent, and a
// token is taken only if its attempt is current and its index is the log's length. So no token is
// lost or repeated.
//
// Threads: one thread calls an Agent, and that thread must outlive it (workers end with it).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "cluster/admin_socket.h"
#include "cluster/folder_model.h"
#include "cluster/head.h"
#include "cluster/planner_placer.h"
#include "cluster/state_dir.h"
#include "cluster/worker_host.h"
#include "cluster/worker_options.h"
#include "engine/engine.h"

namespace conclave::cluster {

// The whole life of a worker process: load, join, compute, end with the agent. Returns its exit
// status. Standard output is never written.
int worker_main(const WorkerOptions& options);

// How the head lets other machines in.
struct PoolOptions {
  StatePlaces state;       // where keys and members are kept
  std::string name;        // of this machine
  std::string host;        // to listen on; empty: all addresses
  std::uint16_t port = 0;  // 0: any
  bool clear = false;      // the owner marked the links private: data travels without TLS
  std::string host_id;     // the same on all agents of one machine
};

struct AgentOptions {
  std::string program = "/proc/self/exe";  // run with worker_arguments()
  std::filesystem::path model_dir;
  WorkerOptions worker;  // its descriptors, pid and addresses are the agent's to fill
  SupervisorOptions supervisor;
  std::uint64_t life = 0;  // of this start; 0: drawn by lot, which is what a pool needs
  HeadOptions head;        // its life is the agent's to fill
  PlacerOptions placer;
  plan::Machine machine;            // this one; usable_bytes is what the model may take
  std::optional<PoolOptions> pool;  // absent: this machine alone
};

struct AgentHandlers {
  // Tokens of open requests, each index once and in order. `finish` is kNone, kStop or kLength;
  // after the last two the request is closed.
  std::function<void(const engine::TokenEvent&)> on_token;
  // The request is closed without an end. kInvalidInput and kExhausted: it cannot be run.
  std::function<void(RequestId, const Error&)> on_failed;
  // Prompt tokens prefilled and in all; a call with 0 says that a worker has admitted it.
  std::function<void(RequestId, std::uint64_t done, std::uint64_t total)> on_prefill;
};

enum class AgentState : std::uint8_t {
  kLoading,     // nothing has run yet
  kReady,       // requests run
  kRestarting,  // requests wait for the next epoch
  kFailed,      // for good: status().failure says why
};

struct AgentStatus {
  AgentState state = AgentState::kLoading;
  std::uint64_t loaded_bytes = 0;
  std::uint64_t total_bytes = 0;
  std::size_t context_max = 0;  // of the head's last ready worker; 0 before
  std::string backend;
  std::string failure;
  std::uint64_t restarts = 0;  // of the head's worker
  int worker_pid = 0;          // 0 while none runs
  std::size_t open_requests = 0;
  engine::EngineStats stats;  // of the running worker, about once a second
  std::string text;           // one line for a person
};

class Agent {
 public:
  // `clock` must outlive the agent. The worker is started by poll(). Errors: the model cannot be
  // read or placed; with a pool, its state folder or its port cannot be had.
  static Result<std::unique_ptr<Agent>> create(AgentOptions options, const Clock& clock,
                                               AgentHandlers handlers);
  class State;
  explicit Agent(std::unique_ptr<State> state);  // by create()
  ~Agent();                                      // kills and reaps the worker
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // Becomes readable when poll() has something to do. Owned by the agent.
  int fd() const;
  // Does what is ready and never blocks; handlers run inside. Call when fd() is readable and at
  // least every 50 ms.
  void poll();

  // May be called from handlers, and calls those of other requests. `request.generated` must be
  // empty and the id new. kExhausted: requests_max are open; kUnavailable: the agent has failed.
  Result<void> submit(engine::Request request);
  void cancel(RequestId id);  // no handler is called for it again; unknown ids are ignored

  const AgentStatus& status() const;
  HeadStatus pool_status() const;
  // The pool for GET /conclave/v1/cluster, JSON.
  std::string pool_text() const;
  // Asks every rank for its last `steps_max` steps. `done` gets JSON inside a poll(), when all have
  // answered or after half a second with those that have.
  void trace(std::size_t steps_max, std::function<void(std::string json)> done);
  std::uint16_t pool_port() const;  // 0: no pool

 private:
  std::unique_ptr<State> state_;
};

// A machine that lends itself to a head.
struct NodeAgentOptions {
  std::string program = "/proc/self/exe";
  StatePlaces state;
  std::string name;
  std::string join_code;  // empty: the pool that the state folder knows
  std::string peer;       // host:port of the head, where the stored addresses do not answer
  // Where others measure the link to this machine and get the weights of its checkpoints; empty
  // host: all addresses.
  std::string bulk_host;
  std::uint16_t bulk_port = 0;  // 0: any
  WorkerOptions worker;         // its descriptors, pid and addresses are the agent's to fill
  SupervisorOptions supervisor;
  plan::Machine machine;
  std::string host_id;
  std::function<void(const std::string&)> on_event;  // one line for a person
};

// What `conclave doctor` says where no head runs: this machine alone, JSON as from a head. `port`
// is what a head would listen on. Changes nothing.
std::string check_this_machine(const std::filesystem::path& state_dir, const std::string& name,
                               std::uint16_t port, const Clock& clock);

// Runs until SIGINT or SIGTERM. Errors: no pool is known, the code is refused, the state folder
// cannot be had.
Result<int> run_node(const NodeAgentOptions& options, const Clock& clock);

}  // namespace conclave::cluster
