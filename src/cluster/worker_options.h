// What a worker process is told on its command line.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"
#include "engine/engine.h"

namespace conclave::cluster {

inline constexpr const char* kEverywhere = "*";  // to listen on every address

struct WorkerOptions {
  // Folders with checkpoints, or checkpoints themselves; weights that none of them has are fetched.
  std::vector<std::filesystem::path> model_dirs;
  // Where weights of other machines are kept, skeletons of their files at least; empty: none are
  // fetched. With `cache` the packed weights too, for the next start.
  std::filesystem::path weights_dir;
  bool cache = false;
  std::string isa;          // "" for the fastest
  std::size_t threads = 0;  // 0: one per core
  engine::EngineOptions engine;
  std::string listen_host;  // for the other ranks, or kEverywhere; empty: this worker is alone
  std::uint16_t listen_port = 0;
  std::string advertised_host;  // how others reach it
  std::string host_id;
  bool clear = false;         // the owner marked the links private
  bool shared_memory = true;  // between ranks of one host
  // For tests and measurements: every message arrives so much later; the worker computes this
  // share of the time.
  std::uint64_t delay_us = 0;
  double pace = 1.0;
  int control_fd = -1;              // a stream socket to the agent
  int agent_pid = 0;                // the worker ends when this is no longer its parent
  std::map<std::string, int> kept;  // shared memory of earlier workers, by name
};

// The command line without the program: {"worker", "--model", ...}.
std::vector<std::string> worker_arguments(const WorkerOptions& options);
// The inverse, without the leading "worker". Errors name the argument.
Result<WorkerOptions> parse_worker_arguments(std::span<const std::string> arguments);

}  // namespace conclave::cluster
