#include "apps/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <system_error>
#include <vector>

#include "apps/model_store.h"
#include "model/model.h"

namespace conclave::apps {

CLI::IsMember weights_modes() {
  return CLI::IsMember(
      std::vector<std::string>(model::kWeightsModes.begin(), model::kWeightsModes.end()));
}

void add_weights_option(CLI::App& command, Settings& settings, std::string& weights) {
  CLI::Option* option =
      command
          .add_option("--weights", weights,
                      "native keeps the file's bytes; int8 rounds at load what has more than 8 "
                      "bits; int4 most of what has more than 4; never router and embedding")
          ->check(weights_modes())
          ->capture_default_str();
  settings.bind(option, "weights");
}

void add_model_options(CLI::App& command, Settings& settings, ModelArgument argument,
                       ModelOptions& options) {
  CLI::Option* model = command.add_option("MODEL", options.model,
                                          "checkpoint folder, GGUF file, or ORG/NAME as pulled");
  if (argument == ModelArgument::kRequired) {
    model->required();
  } else {
    model->description(
        "checkpoint folder, GGUF file, or ORG/NAME as pulled (default: the built-in Ember)");
    settings.bind(model, "model");
  }
  add_weights_option(command, settings, options.weights);
  settings.bind(command.add_option("--threads", options.threads, "CPU threads (0: one per core)")
                    ->check(CLI::Range(0, 1024)),
                "threads");
  settings.bind(command
                    .add_option("--isa", options.isa,
                                "instruction set: scalar, avx2, avx512, neon (default: best)")
                    ->check(CLI::IsMember({"auto", "scalar", "avx2", "avx512", "neon"})),
                "isa");
  settings.bind(command.add_flag("--exact", options.exact,
                                 "float32 throughout: slower, for comparing with references"),
                "exact");
  settings.bind(
      command
          .add_option("--context", options.context, "most tokens in one sequence (0: automatic)")
          ->check(CLI::Range(0, 1 << 24)),
      "context");
}

Result<std::filesystem::path> find_model(const ModelOptions& options,
                                         const std::filesystem::path& binary) {
  if (const auto stored = find_stored_model(options.model)) return *stored;
  if (!options.model.empty()) return std::filesystem::path(options.model);
  const std::filesystem::path beside = binary.parent_path();
  const std::vector<std::filesystem::path> places = {
      "models/ember",
      beside / "../../models/ember",
      beside / "../share/conclave/models/ember",
  };
  for (const std::filesystem::path& place : places) {
    std::error_code ignored;
    if (std::filesystem::exists(place / "config.json", ignored)) return place.lexically_normal();
  }
  return not_found(
      "the built-in model is not beside this program: name a checkpoint folder, or set "
      "CONCLAVE_MODEL");
}

std::string not_negative(const std::string& text) {
  return text.find('-') == std::string::npos ? "" : text + " is negative";
}

std::string not_empty(const std::string& text) { return text.empty() ? "the text is empty" : ""; }

std::string not_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n") == std::string::npos ? "the prompt is empty" : "";
}

Result<std::vector<std::size_t>> parse_counts(std::string_view text, std::string_view flag,
                                              std::size_t lowest) {
  std::vector<std::size_t> counts;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  while (true) {
    std::size_t count = 0;
    const auto [next, error] = std::from_chars(at, end, count);
    if (error != std::errc{} || count < lowest || count > 1'000'000) break;
    counts.push_back(count);
    if (next == end) return counts;
    if (*next != ',') break;
    at = next + 1;
  }
  return invalid_input(fmt::format("{} \"{}\": give numbers from {} to 1000000 joined by commas",
                                   flag, text, lowest));
}

}  // namespace conclave::apps
