// conclave serve: the model behind an OpenAI-compatible HTTP API.
#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string>

#include "apps/loaded_model.h"
#include "apps/options.h"
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
  std::string log_level = "info";
};

// Standard output stays free for what a script may want to read: the address.
void log_to_stderr(const std::string& level) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("conclave"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  spdlog::set_level(spdlog::level::from_str(level));
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
  options.on_ready = [&program, &flags](std::uint16_t port) {
    const bool bare_ipv6 = flags.host.find(':') != std::string::npos;
    const std::string host = bare_ipv6 ? fmt::format("[{}]", flags.host) : flags.host;
    // A closed output must not end a server.
    static_cast<void>(program.output.write(
        fmt::format("listening on http://{}:{}/v1 (Ctrl-C ends)\n", host, port)));
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
  command->callback([&program, flags] {
    program.action = [&program, flags] { return run_serve(program, *flags); };
  });
}

}  // namespace conclave::apps
