#include "apps/config.h"

// toml++ then returns a parse_result instead of throwing.
#define TOML_EXCEPTIONS 0
// Its assertions fail on text that is not TOML ("[[("), which it then reports as an error anyway.
#define TOML_ASSERT(condition) static_assert(true)
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "base/mapped_file.h"

namespace conclave::apps {
namespace {

constexpr std::size_t kFileBytesMax = std::size_t{1} << 20;

// A TOML value as a flag would spell it; nullopt for arrays, dates and tables.
std::optional<std::string> flag_text(const toml::node& node) {
  if (auto text = node.value_exact<std::string>()) return text;
  if (const auto number = node.value_exact<std::int64_t>()) return fmt::format("{}", *number);
  if (const auto number = node.value_exact<double>()) return fmt::format("{}", *number);
  if (const auto truth = node.value_exact<bool>()) return *truth ? "true" : "false";
  return std::nullopt;
}

Result<void> flatten(const toml::table& table, const std::string& prefix, const std::string& label,
                     std::map<std::string, std::string>& out) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    if (const toml::table* inner = node.as_table()) {
      TRY(flatten(*inner, key + ".", label, out));
      continue;
    }
    const auto text = flag_text(node);
    if (!text) {
      return invalid_input(
          fmt::format("{}: {}: must be a string, a number, true or false", label, key));
    }
    out[key] = *text;
  }
  return {};
}

// The file to read and whether it must exist.
std::pair<std::filesystem::path, bool> config_path(const Environment& environment) {
  if (const auto path = environment("CONCLAVE_CONFIG"); path && !path->empty()) {
    return {*path, true};
  }
  const std::filesystem::path inside = "conclave/config.toml";
  if (const auto base = environment("XDG_CONFIG_HOME"); base && !base->empty()) {
    return {*base / inside, false};
  }
  if (const auto home = environment("HOME"); home && !home->empty()) {
    return {std::filesystem::path(*home) / ".config" / inside, false};
  }
  return {{}, false};
}

}  // namespace

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());  // NOLINT(concurrency-mt-unsafe): before threads
    if (value == nullptr) return std::nullopt;
    return std::string(value);
  };
}

std::string environment_name(std::string_view key) {
  std::string name = "CONCLAVE_";
  for (const char c : key) {
    const bool letter = std::isalnum(static_cast<unsigned char>(c)) != 0;
    name += letter ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : '_';
  }
  return name;
}

Settings Settings::load(Environment environment) {
  const auto [path, required] = config_path(environment);
  Settings settings;
  settings.environment_ = std::move(environment);
  std::error_code ignored;
  if (path.empty() || (!required && !std::filesystem::exists(path, ignored))) return settings;
  Result<std::string> text = read_text_file(path, kFileBytesMax);
  if (text) {
    settings.read(*text, path.string());
  } else {
    settings.fail(text.error());
  }
  return settings;
}

Settings Settings::parse(std::string_view toml, std::string label, Environment environment) {
  Settings settings;
  settings.environment_ = std::move(environment);
  settings.read(toml, std::move(label));
  return settings;
}

void Settings::read(std::string_view toml, std::string label) {
  label_ = std::move(label);
  const toml::parse_result parsed = toml::parse(toml, label_);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    fail(invalid_input(fmt::format("{}: line {}: not TOML: {}", label_, error.source().begin.line,
                                   error.description())));
    return;
  }
  const Result<void> flat = flatten(parsed.table(), "", label_, file_);
  if (!flat) fail(flat.error());
}

std::optional<Settings::Value> Settings::find(const std::string& key) const {
  const std::string variable = environment_name(key);
  if (auto text = environment_(variable); text && !text->empty()) return Value{*text, variable};
  const auto entry = file_.find(key);
  if (entry == file_.end()) return std::nullopt;
  return Value{entry->second, fmt::format("{}: {}", label_, key)};
}

void Settings::bind(CLI::Option* option, const std::string& key) {
  known_.insert(key);
  const std::optional<Value> value = find(key);
  if (!value) return;
  try {  // CLI11 reports a value that it cannot convert by throwing
    option->run_callback_for_default()->default_val(value->text);
  } catch (const CLI::Error& error) {
    fail(invalid_input(fmt::format("{}: \"{}\" is no value for {}: {}", value->source, value->text,
                                   option->get_name(), error.what())));
  }
}

void Settings::fail(Error error) {
  if (!error_) error_ = std::move(error);
}

Result<void> Settings::check() const {
  if (error_) return *error_;
  for (const auto& [key, text] : file_) {
    if (known_.contains(key)) continue;
    return invalid_input(
        fmt::format("{}: unknown key \"{}\": use one of {}", label_, key, fmt::join(known_, ", ")));
  }
  return {};
}

}  // namespace conclave::apps
