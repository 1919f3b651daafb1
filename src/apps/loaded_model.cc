#include "apps/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/memory_size.h"
#include "formats/formats.h"
#include "hub/hub.h"

namespace conclave::apps {
namespace {

// An early error instead of a kill by the system half-way through loading.
Result<void> check_memory(std::uint64_t weights, std::uint64_t kv, std::size_t context) {
  const std::optional<std::uint64_t> have = memory_size_bytes();
  if (!have || weights + kv <= *have) return {};
  return exhausted(
      fmt::format("the model needs {} for weights and {} for {} tokens of context, and {} may be "
                  "used here: try {}a machine with more memory",
                  human_bytes(weights), human_bytes(kv), context, human_bytes(*have),
                  weights <= *have ? "a smaller --context or " : "--weights int8 or int4, or "));
}

}  // namespace

Result<std::size_t> context_of(Program& program, const model::ModelConfig& config,
                               const ModelOptions& options) {
  if (options.context > config.max_positions) {
    return usage_error(program,
                       invalid_input(fmt::format("--context {}: the model's limit is {} tokens",
                                                 options.context, config.max_positions)));
  }
  if (options.context != 0) return options.context;
  return config.max_positions;
}

Result<std::unique_ptr<model::ModelSource>> open_source(const std::filesystem::path& dir) {
  std::error_code error;
  if (!std::filesystem::exists(dir, error) && hub::parse_model_name(dir.string())) {
    return not_found(dir.string() + ": no such folder, nor a model that is here: conclave model " +
                     "pull " + dir.string() + " fetches one of that name");
  }
  model::ModelSource source = TRY(model::ModelSource::open(dir));
  return std::make_unique<model::ModelSource>(std::move(source));
}

Result<LoadedModel> load_model(Program& program, const ModelOptions& options,
                               const LoadPlan& plan) {
  const std::filesystem::path dir = TRY(find_model(options, program.binary));
  std::unique_ptr<model::ModelSource> source = TRY(open_source(dir));
  return load_model(program, options, plan, std::move(source));
}

Result<LoadedModel> load_model(Program& program, const ModelOptions& options, const LoadPlan& plan,
                               std::unique_ptr<model::ModelSource> source) {
  LoadedModel loaded;
  loaded.source = std::move(source);
  loaded.dir = loaded.source->path();
  loaded.weights = TRY(model::parse_weights_mode(options.weights));
  loaded.context = TRY(context_of(program, loaded.config(), options));
  if (plan.tokens != 0) {
    loaded.context = std::min(loaded.context, plan.tokens);
  } else if (options.context == 0) {
    loaded.context = std::min(loaded.context, kDefaultContext);
  }

  backend::CpuOptions cpu;
  cpu.isa = options.isa;
  cpu.threads = options.threads;
  cpu.exact = options.exact;
  cpu.weights = loaded.weights;
  cpu.limits.rows_max = std::max<std::size_t>(plan.rows_max, 1);
  cpu.limits.pages = (loaded.context + backend::kPageTokens - 1) / backend::kPageTokens;

  const model::Slice whole = model::Slice::whole(loaded.config());
  const std::size_t weight_bytes = backend::cpu_common_bytes(*loaded.source, true, cpu) +
                                   backend::cpu_slice_bytes(*loaded.source, whole, cpu);
  const std::size_t kv_bytes = backend::cpu_kv_bytes(loaded.config(), cpu.limits, options.exact);
  TRY(check_memory(weight_bytes, kv_bytes, loaded.context));

  const Time start = program.clock.now();
  ProgressLine line(program.clock, program.terminal,
                    fmt::format("loading {}", formats::model_name(loaded.dir)), plan.quiet);
  loaded.memory = TRY(backend::load_whole_cpu_model(
      *loaded.source, cpu,
      [&line](std::uint64_t done, std::uint64_t total) { line.update_bytes(done, total); }));
  loaded.backend = loaded.memory->backend.get();
  loaded.load_seconds = seconds(program.clock.now() - start);
  return loaded;
}

Result<text::TextModel> load_text(const std::filesystem::path& dir,
                                  const model::ModelConfig& config) {
  Result<text::TextModel> text = text::TextModel::load(dir, config.vocab_size);
  const auto gguf = formats::find_gguf(dir);
  const bool is_gguf = gguf && gguf->has_value();
  if (text || is_gguf || text.error().code != ErrorCode::kNotFound) return text;
  return not_found(fmt::format(
      "{}: no tokenizer: add tokenizer.json, or tiktoken.model with tokenizer_config.json",
      dir.string()));
}

}  // namespace conclave::apps
