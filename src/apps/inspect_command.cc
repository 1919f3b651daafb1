// conclave model inspect: what a checkpoint is and what it costs, without loading it.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/inspect_report.h"
#include "apps/loaded_model.h"
#include "apps/model_store.h"
#include "apps/program.h"

namespace conclave::apps {
namespace {

struct InspectOptions {
  std::string dir;
  std::string weights = "native";
  bool json = false;
};

Result<int> run_inspect(Program& program, const InspectOptions& options) {
  const auto stored = find_stored_model(options.dir);
  const std::unique_ptr<model::ModelSource> source = TRY(open_source(stored.value_or(options.dir)));
  InspectReport report;
  report.dir = source->path().string();
  report.weights = options.weights;
  report.config = source->config();
  report.model = model::inspect(*source, TRY(model::parse_weights_mode(options.weights)));
  report.ignored_tensors = source->ignored_tensors().size();
  TRY(program.output.write(options.json ? to_json(report).dump(2) + "\n" : to_text(report)));
  return kExitOk;
}

}  // namespace

void add_inspect_command(CLI::App& model, Program& program) {
  CLI::App* command = model.add_subcommand(
      "inspect", "Show a checkpoint's shape, formats, bytes by part and bytes read per token");
  auto options = std::make_shared<InspectOptions>();  // shared: CLI11 copies the callback
  command->add_option("DIR", options->dir, "checkpoint folder, GGUF file, or ORG/NAME as pulled")
      ->required();
  add_weights_option(*command, program.settings, options->weights);
  command->add_flag("--json", options->json, "print one JSON object");
  command->callback([&program, options] {
    program.action = [&program, options] { return run_inspect(program, *options); };
  });
}

}  // namespace conclave::apps
