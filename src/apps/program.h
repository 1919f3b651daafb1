// What every command gets from main(): the outside world and where to leave its work.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>

#include "apps/config.h"
#include "apps/terminal.h"
#include "base/clock.h"
#include "base/result.h"

namespace conclave::apps {

// Exit codes, as `conclave --help` lists them.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

struct Program {
  const Clock& clock;
  Settings settings;
  Terminal terminal;
  Output output;
  std::filesystem::path binary;  // this executable, to find the built-in model beside it
  // Set by the subcommand that the command line chose; run after parsing has succeeded.
  std::function<Result<int>()> action;
  // The action failed because of what the command line asks for: exit code kExitUsage.
  bool wrong_usage = false;
};

// Marks an error that a command finds in its flags after parsing: `return usage_error(...)`.
inline Error usage_error(Program& program, Error error) {
  program.wrong_usage = true;
  return error;
}

// Each adds one subcommand to `root`. `program` must outlive `root`.
void add_run_command(CLI::App& root, Program& program);
void add_serve_command(CLI::App& root, Program& program);
void add_node_command(CLI::App& root, Program& program);
void add_pool_commands(CLI::App& root, Program& program);  // pair, pool
void add_doctor_command(CLI::App& root, Program& program);
void add_logits_command(CLI::App& root, Program& program);
void add_perplexity_command(CLI::App& root, Program& program);
void add_bench_command(CLI::App& root, Program& program);
void add_plan_command(CLI::App& root, Program& program);
void add_probe_command(CLI::App& root, Program& program);
void add_inspect_command(CLI::App& model, Program& program);  // below `conclave model`
void add_synth_command(CLI::App& model, Program& program);
void add_model_store_commands(CLI::App& model, Program& program);  // pull, add, list, verify, rm

}  // namespace conclave::apps
