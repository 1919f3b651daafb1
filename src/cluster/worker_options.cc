#include "cluster/worker_options.h"

#include <array>
#include <charconv>
#include <string_view>

namespace conclave::cluster {
namespace {

// One place names every option: the writer and the reader walk the same tables.
template <class Field>
struct Option {
  std::string_view name;
  Field& (*field)(WorkerOptions&);
};

constexpr std::array<Option<std::size_t>, 4> kSizeOptions = {{
    {"--threads", [](WorkerOptions& o) -> std::size_t& { return o.threads; }},
    {"--requests-max", [](WorkerOptions& o) -> std::size_t& { return o.engine.requests_max; }},
    {"--chunk-tokens", [](WorkerOptions& o) -> std::size_t& { return o.engine.chunk_tokens; }},
    {"--context-max", [](WorkerOptions& o) -> std::size_t& { return o.engine.context_max; }},
}};
constexpr std::array<Option<int>, 2> kIntOptions = {{
    {"--control-fd", [](WorkerOptions& o) -> int& { return o.control_fd; }},
    {"--agent-pid", [](WorkerOptions& o) -> int& { return o.agent_pid; }},
}};
constexpr std::array<Option<std::string>, 4> kTextOptions = {{
    {"--isa", [](WorkerOptions& o) -> std::string& { return o.isa; }},
    {"--listen-host", [](WorkerOptions& o) -> std::string& { return o.listen_host; }},
    {"--advertised-host", [](WorkerOptions& o) -> std::string& { return o.advertised_host; }},
    {"--host-id", [](WorkerOptions& o) -> std::string& { return o.host_id; }},
}};
constexpr std::array<Option<bool>, 3> kBoolOptions = {{
    {"--cache", [](WorkerOptions& o) -> bool& { return o.cache; }},
    {"--clear", [](WorkerOptions& o) -> bool& { return o.clear; }},
    {"--shared-memory", [](WorkerOptions& o) -> bool& { return o.shared_memory; }},
}};

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

Result<void> set_kept(WorkerOptions& options, const std::string& value) {
  const std::size_t equals = value.rfind('=');
  if (equals == std::string::npos) return invalid_input("worker: --kept needs NAME=FD");
  options.kept[value.substr(0, equals)] =
      TRY(parse_number<int>("--kept", std::string_view(value).substr(equals + 1)));
  return {};
}

template <class Table, class Parse>
Result<bool> set_from(const Table& table, WorkerOptions& options, std::string_view name,
                      const Parse& parse) {
  for (const auto& option : table) {
    if (name != option.name) continue;
    option.field(options) = TRY(parse());
    return true;
  }
  return false;
}

Result<void> set_option(WorkerOptions& options, std::string_view name, const std::string& value) {
  if (TRY(set_from(kSizeOptions, options, name,
                   [&] { return parse_number<std::size_t>(name, value); }))) {
    return {};
  }
  if (TRY(set_from(kIntOptions, options, name, [&] { return parse_number<int>(name, value); }))) {
    return {};
  }
  if (TRY(set_from(kTextOptions, options, name, [&] { return Result<std::string>(value); }))) {
    return {};
  }
  if (TRY(set_from(kBoolOptions, options, name, [&] { return Result<bool>(value == "1"); }))) {
    return {};
  }
  if (name == "--model") {
    options.model_dirs.emplace_back(value);
  } else if (name == "--weights-dir") {
    options.weights_dir = value;
  } else if (name == "--listen-port") {
    options.listen_port = TRY(parse_number<std::uint16_t>(name, value));
  } else if (name == "--delay-us") {
    options.delay_us = TRY(parse_number<std::uint64_t>(name, value));
  } else if (name == "--pace") {
    options.pace = TRY(parse_number<double>(name, value));
  } else if (name == "--kept") {
    return set_kept(options, value);
  } else {
    return invalid_input("worker: unknown option \"" + std::string(name) + "\"");
  }
  return {};
}

}  // namespace

std::vector<std::string> worker_arguments(const WorkerOptions& options) {
  WorkerOptions copy = options;  // the tables give mutable fields
  std::vector<std::string> arguments = {"worker"};
  const auto add = [&arguments](std::string_view name, std::string value) {
    arguments.emplace_back(name);
    arguments.push_back(std::move(value));
  };
  for (const std::filesystem::path& dir : options.model_dirs) add("--model", dir.string());
  add("--weights-dir", options.weights_dir.string());
  for (const auto& option : kSizeOptions) add(option.name, std::to_string(option.field(copy)));
  for (const auto& option : kIntOptions) add(option.name, std::to_string(option.field(copy)));
  for (const auto& option : kTextOptions) add(option.name, option.field(copy));
  for (const auto& option : kBoolOptions) add(option.name, option.field(copy) ? "1" : "0");
  add("--listen-port", std::to_string(options.listen_port));
  add("--delay-us", std::to_string(options.delay_us));
  add("--pace", std::to_string(options.pace));
  for (const auto& [name, fd] : options.kept) add("--kept", name + "=" + std::to_string(fd));
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
  if (options.control_fd < 0 || options.agent_pid <= 0) {
    return invalid_input(
        "worker: --control-fd and --agent-pid are needed; `conclave serve` and `conclave node` "
        "start workers themselves");
  }
  return options;
}

}  // namespace conclave::cluster
