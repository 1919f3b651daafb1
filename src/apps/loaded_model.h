// A model in memory, ready to run in this process.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "apps/options.h"
#include "apps/program.h"
#include "backend/backend.h"
#include "base/result.h"
#include "model/model.h"
#include "text/text.h"

namespace conclave::apps {

// What a command needs of the model, beyond what the user asked for.
struct LoadPlan {
  std::size_t tokens = 0;      // KV memory for this many positions of one sequence; 0: the context
  std::size_t rows_max = 512;  // rows in one step
  bool quiet = false;          // no progress line
};

// Positions that a sequence may have: the model's limit, or less by --context. With neither a
// request nor --context the KV memory is held to kDefaultContext.
inline constexpr std::size_t kDefaultContext = 16'384;
// A --context above the model's is wrong usage.
Result<std::size_t> context_of(Program& program, const model::ModelConfig& config,
                               const ModelOptions& options);

struct LoadedModel {
  std::filesystem::path dir;
  model::WeightsMode weights = model::WeightsMode::kNative;
  std::unique_ptr<model::ModelSource> source;
  std::optional<backend::WholeModel> memory;
  backend::Backend* backend = nullptr;  // in `memory`
  std::size_t context = 0;
  double load_seconds = 0.0;

  const model::ModelConfig& config() const { return source->config(); }
};

// Opens the checkpoint alone: what needs no weights in memory.
Result<std::unique_ptr<model::ModelSource>> open_source(const std::filesystem::path& dir);

// Opens, checks that weights and KV fit this machine's memory, packs the weights with a progress
// line. Errors name the folder and what to do.
Result<LoadedModel> load_model(Program& program, const ModelOptions& options, const LoadPlan& plan);
// The same for a checkpoint that is open already.
Result<LoadedModel> load_model(Program& program, const ModelOptions& options, const LoadPlan& plan,
                               std::unique_ptr<model::ModelSource> source);

// The tokenizer of the folder; one clear error when it has none.
Result<text::TextModel> load_text(const std::filesystem::path& dir,
                                  const model::ModelConfig& config);

}  // namespace conclave::apps
