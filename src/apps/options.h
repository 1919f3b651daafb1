// The options that all commands with a model share.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "apps/config.h"
#include "base/result.h"

namespace conclave::apps {

struct ModelOptions {
  std::string model;  // empty: the built-in one
  std::string weights = "native";
  std::size_t threads = 0;  // 0: one per core
  std::string isa;          // empty: the fastest
  bool exact = false;
  std::size_t context = 0;  // 0: chosen by the command, at most the model's
};

enum class ModelArgument { kOptional, kRequired };

// Adds MODEL and the flags; flags not given come from `settings`.
void add_model_options(CLI::App& command, Settings& settings, ModelArgument argument,
                       ModelOptions& options);

// The values of --weights, to check a flag with.
CLI::IsMember weights_modes();
// `--weights` alone, for commands that run nothing.
void add_weights_option(CLI::App& command, Settings& settings, std::string& weights);

// The folder to load: `options.model` or the built-in Ember, looked for in ./models/ember and
// beside the binary (../../models/ember, ../share/conclave/models/ember).
Result<std::filesystem::path> find_model(const ModelOptions& options,
                                         const std::filesystem::path& binary);

// For CLI11's check(): what is wrong with the text, or nothing. CLI11 itself wraps "-1" around
// when the variable is unsigned.
std::string not_negative(const std::string& text);
std::string not_empty(const std::string& text);
std::string not_blank(const std::string& text);

// "64,512" -> {64, 512}. Errors name `flag`.
Result<std::vector<std::size_t>> parse_counts(std::string_view text, std::string_view flag,
                                              std::size_t lowest = 1);

}  // namespace conclave::apps
