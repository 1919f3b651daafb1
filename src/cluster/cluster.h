// The agent: owns the weights, keeps a worker process alive, and keeps every answer going.
//
//   auto arena = TRY(backend::WeightArena::create_shared(bytes));
//   auto agent = TRY(cluster::Agent::create(options, std::move(arena), clock, handlers));
//   agent->submit(request);                    // then handlers.on_token(...) in index order
//   while (running) { wait until agent->fd() is readable, at most 100 ms; agent->poll(); }
//
// The worker may die at any moment. Each open request has a token log here; a new worker gets the
// request again with a higher attempt and what was already sent, and a token is taken only if its
// attempt is current and its index is the log's length. So no token is lost or repeated.
//
// Threads: one thread calls an Agent, and that thread must outlive it (the worker ends with it).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "engine/engine.h"

namespace conclave::cluster {

// What a worker process is told on its command line.
struct WorkerOptions {
  std::filesystem::path model_dir;
  backend::CpuOptions cpu;
  engine::EngineOptions engine;
  int control_fd = -1;  // a stream socket to the agent
  int arena_fd = -1;    // a WeightArena made by create_shared
  int agent_pid = 0;    // the worker ends when this is no longer its parent
};

// The command line without the program: {"worker", "--model", ...}.
std::vector<std::string> worker_arguments(const WorkerOptions& options);
// The inverse, without the leading "worker". Errors name the argument.
Result<WorkerOptions> parse_worker_arguments(std::span<const std::string> arguments);

// The whole life of a worker process: attach, load, serve, end with the agent. Returns its exit
// status. Standard output is never written.
int worker_main(const WorkerOptions& options);

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
  Duration stable_after = std::chrono::seconds(10);  // ready so long: old failures are forgotten
  Duration backoff_first = std::chrono::milliseconds(100);  // doubles; the first restart is at once
  Duration backoff_max = std::chrono::seconds(5);
  // Ends in a row before the worker was ready; then the agent has failed. A worker that was ready
  // may have met a bad request: that request is given up, not the server.
  int failures_max = 5;
};

struct AgentOptions {
  std::string program = "/proc/self/exe";  // run with worker_arguments()
  WorkerOptions worker;                    // its fds and pid are the agent's to fill
  SupervisorOptions supervisor;
  std::size_t requests_max = 256;  // open at once; more is kExhausted
  int barren_attempts_max = 3;     // workers that died on one request before it got a token
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
  kLoading,     // the first worker is not ready yet
  kReady,       // requests run
  kRestarting,  // requests wait for the next worker
  kFailed,      // for good: status().failure says why
};

struct AgentStatus {
  AgentState state = AgentState::kLoading;
  std::uint64_t loaded_bytes = 0;
  std::uint64_t total_bytes = 0;
  std::size_t context_max = 0;  // of the last ready worker; 0 before
  std::string backend;
  std::string failure;
  std::uint64_t restarts = 0;
  int worker_pid = 0;  // 0 while none runs
  std::size_t open_requests = 0;
  engine::EngineStats stats;  // of the running worker, about once a second
};

class Agent {
 public:
  // `clock` must outlive the agent. The worker is started by the first poll().
  static Result<std::unique_ptr<Agent>> create(AgentOptions options, backend::WeightArena arena,
                                               const Clock& clock, AgentHandlers handlers);
  class State;
  explicit Agent(std::unique_ptr<State> state);  // by create()
  ~Agent();                                      // kills and reaps the worker
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // Becomes readable when poll() has something to do. Owned by the agent.
  int fd() const;
  // Does what is ready and never blocks; handlers run inside. Call when fd() is readable and at
  // least every 100 ms.
  void poll();

  // May be called from handlers. `request.generated` must be empty and the id new. kExhausted:
  // requests_max are open; kUnavailable: the agent has failed.
  Result<void> submit(engine::Request request);
  void cancel(RequestId id);  // no handler is called for it again; unknown ids are ignored

  const AgentStatus& status() const;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace conclave::cluster
