// conclave serve: the model behind an OpenAI-compatible HTTP API.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>

#include "apps/loaded_model.h"
#include "apps/logging.h"
#include "apps/options.h"
#include "apps/pool_flags.h"
#include "apps/program.h"
#include "server/server.h"

namespace conclave::apps {
namespace {

struct ServeFlags {
  ModelOptions model;
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  std::string model_id;
  std::size_t requests = 256;
  bool pool = false;
  std::string pool_host;
  std::uint16_t pool_port = 7333;
  std::size_t nodes = 1;
  std::size_t survive = 1;
  std::string strategy;
  std::string shares;
  std::optional<std::size_t> hot_experts;
  bool use_all = false;
  PoolFlags pool_flags;
  std::string log_level = "info";
};

// What --pool adds.
Result<void> add_pool(Program& program, const ServeFlags& flags, server::ServeOptions& options) {
  apply(flags.pool_flags, options.worker);
  options.machine =
      TRY(this_machine(program, flags.pool_flags, flags.model.isa, flags.model.threads));
  cluster::PoolOptions pool;
  pool.state = cluster::state_places_from_environment(flags.pool_flags.state);
  pool.name = options.machine.name;
  pool.host = flags.pool_host;
  pool.port = flags.pool_port;
  pool.clear = flags.pool_flags.clear;
  pool.host_id = options.worker.host_id;
  options.pool = pool;
  options.nodes_min = flags.nodes;
  options.placer.cover_losses = flags.survive;
  options.placer.use_all_machines = flags.use_all;
  options.placer.hot_experts = flags.hot_experts;
  if (!flags.strategy.empty()) {
    options.placer.strategy = TRY(plan::parse_strategy(flags.strategy));
  }
  if (!flags.shares.empty()) {
    options.placer.shares = TRY(parse_counts(flags.shares, "--shares", 0));
  }
  return {};
}

Result<int> run_serve(Program& program, const ServeFlags& flags) {
  log_to_stderr(flags.log_level);
  server::ServeOptions options;
  options.model_dir = TRY(find_model(flags.model, program.binary));
  options.model_id = flags.model_id;
  options.host = flags.host;
  options.port = flags.port;
  options.cpu.isa = flags.model.isa;
  options.cpu.threads = flags.model.threads;
  options.cpu.exact = flags.model.exact;
  options.cpu.weights = TRY(model::parse_weights_mode(flags.model.weights));
  options.engine.requests_max = flags.requests;
  if (flags.model.context != 0) {
    const std::unique_ptr<model::ModelSource> source = TRY(open_source(options.model_dir));
    options.engine.context_max = TRY(context_of(program, source->config(), flags.model));
  }
  if (flags.pool) TRY(add_pool(program, flags, options));
  options.on_ready = [&program, &flags](std::uint16_t port, std::uint16_t pool_port) {
    const bool bare_ipv6 = flags.host.find(':') != std::string::npos;
    const std::string host = bare_ipv6 ? fmt::format("[{}]", flags.host) : flags.host;
    // A closed output must not end a server.
    static_cast<void>(program.output.write(
        fmt::format("listening on http://{}:{}/v1 (Ctrl-C ends)\n", host, port)));
    if (pool_port == 0) return;
    static_cast<void>(program.output.write(fmt::format(
        "the pool listens on port {}: `conclave pair` lets a machine in\n", pool_port)));
  };
  const int code = TRY(server::serve(options, program.clock));
  return code;
}

}  // namespace

void add_serve_command(CLI::App& root, Program& program) {
  CLI::App* command = root.add_subcommand("serve", "Answer OpenAI's chat API over HTTP");
  auto flags = std::make_shared<ServeFlags>();  // shared: CLI11 copies the callback
  Settings& settings = program.settings;
  add_model_options(*command, settings, ModelArgument::kOptional, flags->model);
  settings.bind(
      command->add_option("--host", flags->host, "address to listen on")->capture_default_str(),
      "serve.host");
  settings.bind(command->add_option("--port", flags->port, "0: any free one")
                    ->check(CLI::Range(0, 65535))
                    ->capture_default_str(),
                "serve.port");
  settings.bind(command->add_option("--model-id", flags->model_id,
                                    "name in /v1/models (default: the folder's)"),
                "serve.model_id");
  settings.bind(
      command
          ->add_option("--requests", flags->requests, "answers at once; more are refused with 429")
          ->check(CLI::Range(1, 65536))
          ->capture_default_str(),
      "serve.requests");
  settings.bind(command->add_option("--log-level", flags->log_level, "on stderr")
                    ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
                    ->capture_default_str(),
                "serve.log_level");
  command->add_flag("--pool", flags->pool, "let other machines join: see `conclave pair`");
  command->add_option("--pool-host", flags->pool_host, "address for them (default: all)");
  command->add_option("--pool-port", flags->pool_port, "port for them; 0: any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option("--nodes", flags->nodes, "wait for so many machines, this one included")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command
      ->add_option("--survive", flags->survive,
                   "machines that may be lost without reading files again: 0 or 1")
      ->check(CLI::Range(0, 1))
      ->capture_default_str();
  command->add_option(
      "--strategy", flags->strategy,
      "slice, slice-ra, expert, pipeline (default: what the planner finds fastest)");
  command->add_option("--shares", flags->shares,
                      "relative shares of the machines, the head's first, as in 2,1,1 (default: "
                      "the planner's)");
  command
      ->add_option("--hot-experts", flags->hot_experts,
                   "strategy expert: how many of each layer's most chosen experts get a copy on "
                   "a second machine, where there is room (default: a sixteenth of them)")
      ->check(CLI::Range(0, 4096));
  command->add_flag("--all", flags->use_all, "use also machines that only slow the answer");
  add_pool_flags(*command, flags->pool_flags);
  command->callback([&program, flags] {
    program.action = [&program, flags] { return run_serve(program, *flags); };
  });
}

}  // namespace conclave::apps
