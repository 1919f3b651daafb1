// Flags that `serve` and `node` share: what this machine lends to a pool, and how.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "apps/program.h"
#include "base/result.h"
#include "cluster/cluster.h"
#include "plan/plan.h"

namespace conclave::apps {

struct PoolFlags {
  std::string name;           // empty: the host's
  std::string state;          // empty: where the environment says
  std::string memory;         // "24GB"; empty: nine tenths of what is there
  double bandwidth_gb = 0.0;  // 0: measured
  bool clear = false;
  bool no_shared_memory = false;
  std::uint64_t delay_us = 0;
  double pace = 1.0;
};

void add_pool_flags(CLI::App& command, PoolFlags& flags);

// "24GB", "512MB", "1.5TB": bytes, in powers of ten. Errors name the flag.
Result<std::uint64_t> parse_memory(std::string_view text, std::string_view flag);

std::string host_name();
// The same on everything that runs on this machine, and on nothing else.
std::string host_id();

// This machine as the planner sees it. Measures it (seconds, with a line on stderr) unless
// --bandwidth says how fast it is.
Result<plan::Machine> this_machine(Program& program, const PoolFlags& flags, const std::string& isa,
                                   std::size_t threads);

// Fills what the flags say of the worker.
void apply(const PoolFlags& flags, cluster::WorkerOptions& worker);

}  // namespace conclave::apps
