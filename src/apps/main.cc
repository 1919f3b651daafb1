// The `conclave` program: builds what commands need, lets CLI11 choose one, reports its error.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "apps/interrupts.h"
#include "apps/program.h"
#include "cluster/cluster.h"

namespace conclave::apps {
namespace {

constexpr const char* kFooter =
    "The flags of run and serve, and how any command loads a model (--weights, --threads, --isa,\n"
    "--exact, --context), may also come from CONCLAVE_* in the environment (--threads:\n"
    "CONCLAVE_THREADS, run --top-p: CONCLAVE_RUN_TOP_P) or from a TOML file: $CONCLAVE_CONFIG,\n"
    "else $XDG_CONFIG_HOME/conclave/config.toml, else ~/.config/conclave/config.toml. The flag\n"
    "wins, then the environment, then the file. NO_COLOR is honoured.\n"
    "\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

// Errors are one line, whatever a file name or a parser put into them.
int fail(const Error& error, int code) {
  std::string line = error.message;
  std::replace(line.begin(), line.end(), '\n', ' ');
  say(fmt::format("conclave: {}\n", without_controls(line)));
  return code;
}

std::filesystem::path binary_path(const char* invoked_as) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::filesystem::absolute(invoked_as, error) : self;
}

void add_commands(CLI::App& app, Program& program) {
  app.set_version_flag("--version", fmt::format("conclave {}", CONCLAVE_VERSION));
  app.footer(kFooter);
  add_run_command(app, program);
  add_serve_command(app, program);
  add_node_command(app, program);
  add_pool_commands(app, program);
  add_doctor_command(app, program);
  CLI::App* model = app.add_subcommand("model", "Fetch, keep and look at checkpoints");
  add_model_store_commands(*model, program);
  add_inspect_command(*model, program);
  add_synth_command(*model, program);
  add_logits_command(app, program);
  add_perplexity_command(app, program);
  add_bench_command(app, program);
  add_probe_command(app, program);
  add_plan_command(app, program);
}

// An exit code when the command line was all (--help, an error), else nullopt: an action is set.
std::optional<int> parse(CLI::App& app, std::span<char*> arguments) {
  try {  // CLI11 ends parsing by throwing
    app.parse(static_cast<int>(arguments.size()), arguments.data());
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return fail(invalid_input(fmt::format("{}: see conclave --help", error.what())), kExitUsage);
  }
  return std::nullopt;
}

// Started by the agent of `conclave serve`; no part of the user's command line.
int run_worker(std::span<char*> arguments) {
  const std::vector<std::string> texts(arguments.begin(), arguments.end());
  const Result<cluster::WorkerOptions> options = cluster::parse_worker_arguments(texts);
  if (!options) return fail(options.error(), kExitUsage);
  return cluster::worker_main(*options);
}

int run(std::span<char*> arguments) {
  ignore_broken_pipes();
  if (arguments.size() > 1 && std::string_view(arguments[1]) == "worker") {
    return run_worker(arguments.subspan(2));
  }
  const RealClock clock;
  const Environment environment = process_environment();
  Program program{.clock = clock,
                  .settings = Settings::load(environment),
                  .terminal = detect_terminal(environment),
                  .output = Output(STDOUT_FILENO),
                  .binary = binary_path(arguments[0]),
                  .action = {}};
  CLI::App app(
      "Runs Mixture-of-Experts models (Kimi K2, DeepSeek, Qwen3, GLM, gpt-oss ...) on your "
      "machines");
  app.name("conclave");
  add_commands(app, program);
  if (const std::optional<int> code = parse(app, arguments)) return *code;
  // Not require_subcommand(): it would hide which word was not understood.
  if (!program.action)
    return fail(invalid_input("name a command: see conclave --help"), kExitUsage);
  if (const Result<void> settings = program.settings.check(); !settings) {
    return fail(settings.error(), kExitUsage);
  }
  const Result<int> result = program.action();
  if (program.output.closed()) return kExitOk;
  if (result) return *result;
  return fail(result.error(), program.wrong_usage ? kExitUsage : kExitFailed);
}

}  // namespace
}  // namespace conclave::apps

int main(int argc, char** argv) {
  return conclave::apps::run({argv, static_cast<std::size_t>(argc)});
}
