// `conclave serve`: one model behind OpenAI's chat API, on this machine.
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
  Duration shutdown_grace = std::chrono::seconds(5);  // for answers in progress, then they end
  // Called once, when connections are accepted. The model may still load: requests get 503 then.
  std::function<void(std::uint16_t port)> on_ready;
};

// Runs until SIGINT or SIGTERM (a second one ends it at once) and leaves no process behind.
// Returns the exit status. Errors: the model cannot be used, the port cannot be had, or the worker
// failed for good. Logs go to spdlog's default logger; prompts and answers never do.
// Call from a thread that lives as long as the process: the worker ends with it.
Result<int> serve(const ServeOptions& options, const Clock& clock);

}  // namespace conclave::server
