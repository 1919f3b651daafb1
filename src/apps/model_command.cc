// conclave model pull | add | list | verify | rm: models on this machine's disk.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/interrupts.h"
#include "apps/model_store.h"
#include "apps/program.h"
#include "hub/hub.h"

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;

struct ModelCommand {
  std::string name;
  std::string from;
  hub::PullRequest pull;
  bool json = false;
};

// The names of folders may be no UTF-8.
std::string one_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Result<hub::Store> open_store() {
  const auto root = model_store_root();
  if (!root) return invalid_input("set CONCLAVE_MODELS to the folder where models shall lie");
  return hub::Store(*root);
}

// Runs `work` with a progress line; Ctrl-C stops it, and is told by the exit code.
template <class Work>
auto with_progress(Program& program, const char* label, bool& interrupted, const Work& work) {
  const InterruptGuard guard;
  ProgressLine line(program.clock, program.terminal, label, /*quiet=*/false);
  auto result = work([&](std::uint64_t done, std::uint64_t total) {
    line.update_bytes(done, total);
    interrupted |= guard.pending();
    return !interrupted;
  });
  line.clear();
  return result;
}

Result<int> interrupted_or(bool interrupted, const Error& error) {
  if (!interrupted) return error;
  say(fmt::format("conclave: {}\n", error.message));
  return kExitInterrupted;
}

Result<int> report_pull(Program& program, const ModelCommand& command,
                        const hub::PullReport& report) {
  if (command.json) {
    Json json;
    json["model"] = command.name;
    json["dir"] = report.dir.string();
    json["fetched_bytes"] = report.fetched_bytes;
    json["was_there"] = report.was_there;
    TRY(program.output.write(one_line(json)));
    return kExitOk;
  }
  const std::string what =
      report.was_there ? std::string("is there and up to date")
                       : fmt::format("{}, every file checked", human_bytes(report.fetched_bytes));
  TRY(program.output.write(fmt::format("{}: {}\n  {}\n  conclave run {}\n", command.name, what,
                                       report.dir.string(), command.name)));
  return kExitOk;
}

Result<int> run_pull(Program& program, const ModelCommand& command) {
  hub::PullRequest request = command.pull;
  const hub::ModelName name = TRY(hub::parse_model_name(command.name));
  const hub::Store store = TRY(open_store());
  if (const std::string endpoint = variable("HF_ENDPOINT"); !endpoint.empty()) {
    request.endpoint = endpoint;
  }
  const bool has_scheme =
      request.endpoint.starts_with("https://") || request.endpoint.starts_with("http://");
  if (!has_scheme || request.endpoint.find('@') != std::string::npos) {
    return invalid_input("HF_ENDPOINT: expected http(s)://HOST, and a token in HF_TOKEN");
  }
  request.token = variable("HF_TOKEN");
  if (std::ranges::any_of(request.token, [](unsigned char c) { return c <= ' ' || c >= 127; })) {
    return invalid_input("HF_TOKEN: has characters that no token has");
  }
  bool interrupted = false;
  const auto report = with_progress(
      program, "fetching", interrupted,
      [&](const hub::Progress& progress) { return store.pull(name, request, progress); });
  if (!report) return interrupted_or(interrupted, report.error());
  return report_pull(program, command, *report);
}

Result<int> run_add(Program& program, const ModelCommand& given) {
  ModelCommand command = given;
  if (command.name.empty()) {
    std::error_code error;
    std::filesystem::path folder =
        std::filesystem::absolute(command.from, error).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();
    command.name = "local/" + folder.filename().string();
    if (!hub::parse_model_name(command.name)) {
      return invalid_input(command.from + ": give the model a name: --name ORG/NAME");
    }
  }
  const hub::ModelName name = TRY(hub::parse_model_name(command.name));
  const hub::Store store = TRY(open_store());
  bool interrupted = false;
  const auto report = with_progress(
      program, "copying", interrupted,
      [&](const hub::Progress& progress) { return store.add(name, command.from, progress); });
  if (!report) return interrupted_or(interrupted, report.error());
  return report_pull(program, command, *report);
}

Result<int> run_list(Program& program, const ModelCommand& command) {
  const hub::Store store = TRY(open_store());
  const std::vector<hub::StoredModel> models = store.list();
  if (command.json) {
    Json list = Json::array();
    for (const hub::StoredModel& model : models) {
      list.push_back({{"model", model.name.text()},
                      {"dir", model.dir.string()},
                      {"bytes", model.bytes},
                      {"complete", model.complete}});
    }
    TRY(program.output.write(list.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"));
    return kExitOk;
  }
  std::string text;
  for (const hub::StoredModel& model : models) {
    text += fmt::format("{:<48} {:>10}{}\n", model.name.text(), human_bytes(model.bytes),
                        model.complete ? "" : "  on its way: conclave model pull goes on with it");
  }
  if (models.empty()) text = fmt::format("no models in {}\n", store.root().string());
  TRY(program.output.write(text));
  return kExitOk;
}

Result<int> run_verify(Program& program, const ModelCommand& command) {
  const hub::ModelName name = TRY(hub::parse_model_name(command.name));
  const hub::Store store = TRY(open_store());
  bool interrupted = false;
  const auto problems =
      with_progress(program, "checking", interrupted,
                    [&](const hub::Progress& progress) { return store.verify(name, progress); });
  if (!problems) return interrupted_or(interrupted, problems.error());
  if (command.json) {
    Json json;
    json["model"] = command.name;
    json["problems"] = *problems;
    TRY(program.output.write(one_line(json)));
  } else if (problems->empty()) {
    TRY(program.output.write(fmt::format("{}: every file is as it was fetched\n", command.name)));
  } else {
    std::string text;
    for (const std::string& problem : *problems) text += problem + "\n";
    TRY(program.output.write(text));
    say(fmt::format("conclave: {}: remove it and pull it again\n", command.name));
  }
  return problems->empty() ? kExitOk : kExitFailed;
}

Result<int> run_remove(Program& program, const ModelCommand& command) {
  const hub::ModelName name = TRY(hub::parse_model_name(command.name));
  const hub::Store store = TRY(open_store());
  const std::uint64_t bytes = TRY(store.remove(name));
  TRY(program.output.write(
      fmt::format("{}: removed, {} given back\n", command.name, human_bytes(bytes))));
  return kExitOk;
}

CLI::App* add_verb(CLI::App& model, Program& program, const char* verb, const char* help,
                   const std::shared_ptr<ModelCommand>& command,
                   Result<int> (*run)(Program&, const ModelCommand&)) {
  CLI::App* added = model.add_subcommand(verb, help);
  added->callback([&program, command, run] {
    program.action = [&program, command, run] { return run(program, *command); };
  });
  return added;
}

}  // namespace

void add_model_store_commands(CLI::App& model, Program& program) {
  const auto make = [] { return std::make_shared<ModelCommand>(); };  // CLI11 copies callbacks
  auto command = make();
  CLI::App* pull = add_verb(model, program, "pull",
                            "Fetch a model from a hub (HF_ENDPOINT, HF_TOKEN): goes on where it "
                            "stopped, checks every file",
                            command, run_pull);
  pull->add_option("MODEL", command->name, "ORG/NAME")->required();
  pull->add_option("--revision", command->pull.revision, "branch, tag or commit")
      ->capture_default_str();
  pull->add_option("--connections", command->pull.connections, "files at a time")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  pull->add_option("--tries", command->pull.tries, "of one file without any progress")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  pull->add_option("--stall", command->pull.stall_seconds,
                   "seconds below 1 kB/s after which a connection is given up")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  pull->add_flag("--json", command->json, "print one JSON object");

  command = make();
  CLI::App* add =
      add_verb(model, program, "add",
               "Copy a model from a folder, a USB disk say, and note its hashes", command, run_add);
  add->add_option("DIR", command->from, "folder with config.json and safetensors")->required();
  add->add_option("--name", command->name, "ORG/NAME (default: local/FOLDER)");
  add->add_flag("--json", command->json, "print one JSON object");

  command = make();
  CLI::App* list =
      add_verb(model, program, "list", "Show the models that are here", command, run_list);
  list->add_flag("--json", command->json, "print a JSON array");

  command = make();
  CLI::App* verify = add_verb(model, program, "verify", "Read every file and compare its hash",
                              command, run_verify);
  verify->add_option("MODEL", command->name, "ORG/NAME")->required();
  verify->add_flag("--json", command->json, "print one JSON object");

  command = make();
  CLI::App* remove = add_verb(model, program, "rm", "Remove a model, or one that is on its way",
                              command, run_remove);
  remove->add_option("MODEL", command->name, "ORG/NAME")->required();
}

}  // namespace conclave::apps
