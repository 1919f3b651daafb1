// `conclave serve`: one model behind OpenAI's chat API, on this machine or on a pool of machines.
//
//   GET  /health, /v1/models, /v1/models/{id}      HEAD/GET /      POST /v1/chat/completions
//
// Every path works with and without /v1. The model runs in a worker process that may die at any
// moment: answers in progress go on with the next one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/result.h"
#include "cluster/cluster.h"
#include "engine/engine.h"

namespace conclave::server {

struct ServeOptions {
  std::filesystem::path model_dir;
  std::string model_id;  // as /v1/models shows it; empty: the folder's name
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;  // 0: any free one
  // `limits.pages` 0: room for 16 full contexts, or for what a quarter of the memory beside the
  // weights holds.
  backend::CpuOptions cpu;
  // `context_max` 0: the model's, or what the KV memory holds. `requests_max` answers at once;
  // more get 429.
  engine::EngineOptions engine;
  plan::Machine machine;  // this one, as the planner sees it; usable_bytes 0: all of its memory
  cluster::PlacerOptions placer;             // weights, exact, rows and pages are filled from `cpu`
  std::optional<cluster::PoolOptions> pool;  // lets other machines in; absent: this one alone
  std::size_t nodes_min = 1;                 // with a pool: placed when so many are there
  cluster::WorkerOptions worker;             // of the head: tests' delay and pace
  Duration shutdown_grace = std::chrono::seconds(5);  // for answers in progress, then they end
  // Called once, when connections are accepted; `pool_port` 0: no pool. The model may still load:
  // requests get 503 then.
  std::function<void(std::uint16_t port, std::uint16_t pool_port)> on_ready;
};

// Runs until SIGINT or SIGTERM (a second one ends it at once) and leaves no process behind.
// Returns the exit status. Errors: the model cannot be used, the port cannot be had, or the worker
// failed for good. Logs go to spdlog's default logger; prompts and answers never do.
// Call from a thread that lives as long as the process: the worker ends with it.
Result<int> serve(const ServeOptions& options, const Clock& clock);

}  // namespace conclave::server
