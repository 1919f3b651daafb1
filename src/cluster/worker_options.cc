#include <array>
#include <charconv>
#include <string_view>

#include "cluster/cluster.h"

namespace conclave::cluster {
namespace {

// One place names every option: the writer and the reader walk the same table.
struct SizeOption {
  std::string_view name;
  std::size_t& (*field)(WorkerOptions&);
};
constexpr std::array<SizeOption, 6> kSizeOptions = {{
    {"--threads", [](WorkerOptions& o) -> std::size_t& { return o.cpu.threads; }},
    {"--rows-max", [](WorkerOptions& o) -> std::size_t& { return o.cpu.limits.rows_max; }},
    {"--pages", [](WorkerOptions& o) -> std::size_t& { return o.cpu.limits.pages; }},
    {"--requests-max", [](WorkerOptions& o) -> std::size_t& { return o.engine.requests_max; }},
    {"--chunk-tokens", [](WorkerOptions& o) -> std::size_t& { return o.engine.chunk_tokens; }},
    {"--context-max", [](WorkerOptions& o) -> std::size_t& { return o.engine.context_max; }},
}};

struct IntOption {
  std::string_view name;
  int& (*field)(WorkerOptions&);
};
constexpr std::array<IntOption, 3> kIntOptions = {{
    {"--control-fd", [](WorkerOptions& o) -> int& { return o.control_fd; }},
    {"--arena-fd", [](WorkerOptions& o) -> int& { return o.arena_fd; }},
    {"--agent-pid", [](WorkerOptions& o) -> int& { return o.agent_pid; }},
}};

std::string_view weights_text(model::WeightsMode mode) {
  return mode == model::WeightsMode::kInt8 ? "int8" : "native";
}

template <class Number>
Result<Number> parse_number(std::string_view name, std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return invalid_input("worker: " + std::string(name) + " needs a number, found \"" +
                         std::string(text) + "\"");
  }
  return number;
}

Result<void> set_option(WorkerOptions& options, std::string_view name, const std::string& value) {
  for (const SizeOption& option : kSizeOptions) {
    if (name != option.name) continue;
    option.field(options) = TRY(parse_number<std::size_t>(name, value));
    return {};
  }
  for (const IntOption& option : kIntOptions) {
    if (name != option.name) continue;
    option.field(options) = TRY(parse_number<int>(name, value));
    return {};
  }
  if (name == "--model") {
    options.model_dir = value;
  } else if (name == "--isa") {
    options.cpu.isa = value;
  } else if (name == "--weights") {
    options.cpu.weights = TRY(model::parse_weights_mode(value));
  } else if (name == "--exact") {
    options.cpu.exact = TRY(parse_number<int>(name, value)) != 0;
  } else {
    return invalid_input("worker: unknown option \"" + std::string(name) + "\"");
  }
  return {};
}

}  // namespace

std::vector<std::string> worker_arguments(const WorkerOptions& options) {
  WorkerOptions copy = options;  // the tables give mutable fields
  std::vector<std::string> arguments = {"worker",
                                        "--model",
                                        options.model_dir.string(),
                                        "--isa",
                                        options.cpu.isa,
                                        "--weights",
                                        std::string(weights_text(options.cpu.weights)),
                                        "--exact",
                                        options.cpu.exact ? "1" : "0"};
  for (const SizeOption& option : kSizeOptions) {
    arguments.emplace_back(option.name);
    arguments.push_back(std::to_string(option.field(copy)));
  }
  for (const IntOption& option : kIntOptions) {
    arguments.emplace_back(option.name);
    arguments.push_back(std::to_string(option.field(copy)));
  }
  return arguments;
}

Result<WorkerOptions> parse_worker_arguments(std::span<const std::string> arguments) {
  WorkerOptions options;
  for (std::size_t i = 0; i < arguments.size(); i += 2) {
    if (i + 1 == arguments.size()) {
      return invalid_input("worker: " + arguments[i] + " has no value");
    }
    TRY(set_option(options, arguments[i], arguments[i + 1]));
  }
  if (options.model_dir.empty()) return invalid_input("worker: --model is missing");
  if (options.control_fd < 0 || options.arena_fd < 0 || options.agent_pid <= 0) {
    return invalid_input(
        "worker: --control-fd, --arena-fd and --agent-pid are needed; `conclave serve` starts "
        "workers itself");
  }
  return options;
}

}  // namespace conclave::cluster
