// conclave perplexity: how well the model predicts a text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/loaded_model.h"
#include "apps/program.h"
#include "apps/token_file.h"
#include "apps/token_loss.h"
#include "base/mapped_file.h"
#include "engine/engine.h"

namespace conclave::apps {
namespace {

constexpr std::size_t kTextBytesMax = std::size_t{64} << 20;

struct PerplexityOptions {
  ModelOptions model;
  std::string text_path;
  std::string ids_path;
  std::size_t chunk = 512;
  bool json = false;
};

Result<std::vector<TokenId>> read_ids(const PerplexityOptions& options,
                                      const model::ModelSource& source) {
  if (!options.ids_path.empty()) {
    return read_token_ids(options.ids_path, source.config().vocab_size);
  }
  const std::string words = TRY(read_text_file(options.text_path, kTextBytesMax));
  const text::TextModel tokenizer = TRY(load_text(source.dir(), source.config()));
  return tokenizer.encode(words, text::Specials::kPlain);
}

std::string report(double nll, std::size_t tokens, bool json) {
  if (json) {
    nlohmann::ordered_json object;
    object["nll"] = nll;
    object["perplexity"] = std::exp(nll);
    object["tokens"] = tokens;
    return object.dump() + "\n";
  }
  return fmt::format("{} tokens, mean negative log-likelihood {:.6f}, perplexity {:.4f}\n", tokens,
                     nll, std::exp(nll));
}

Result<int> run_perplexity(Program& program, const PerplexityOptions& options) {
  const std::filesystem::path dir = TRY(find_model(options.model, program.binary));
  std::unique_ptr<model::ModelSource> source = TRY(open_source(dir));
  const std::vector<TokenId> ids = TRY(read_ids(options, *source));
  const std::string& path = options.ids_path.empty() ? options.text_path : options.ids_path;
  const std::size_t context = TRY(context_of(program, source->config(), options.model));
  if (ids.size() < 2) {
    return invalid_input(fmt::format("{}: {} token: give at least 2", path, ids.size()));
  }
  if (ids.size() > context) {
    return invalid_input(fmt::format("{}: {} tokens, the context is {}: give a shorter text", path,
                                     ids.size(), context));
  }
  const std::size_t chunk = std::min(options.chunk, ids.size());
  LoadPlan plan;
  plan.tokens = ids.size();
  plan.rows_max = chunk;
  const LoadedModel loaded = TRY(load_model(program, options.model, plan, std::move(source)));

  ProgressLine line(program.clock, program.terminal, "evaluating", /*quiet=*/false);
  double total = 0.0;
  TRY(engine::evaluate(*loaded.backend, ids, {.chunk_tokens = chunk, .forced_experts = {}},
                       [&](const engine::EvaluatedRow& row) {
                         line.update_items(row.position + 1, ids.size(), "tokens");
                         if (row.position + 1 == ids.size()) return;
                         total += token_loss(row.logits, ids[row.position + 1]);
                       }));
  line.clear();
  const std::size_t predicted = ids.size() - 1;
  const double nll = total / static_cast<double>(predicted);
  if (!std::isfinite(nll)) {
    return corrupt(
        fmt::format("{}: the model gives logits that are not numbers: its weights are "
                    "damaged",
                    loaded.dir.string()));
  }
  TRY(program.output.write(report(nll, predicted, options.json)));
  return kExitOk;
}

}  // namespace

void add_perplexity_command(CLI::App& root, Program& program) {
  CLI::App* command = root.add_subcommand(
      "perplexity", "Mean negative log-likelihood of a text or a list of ids, given what precedes");
  auto options = std::make_shared<PerplexityOptions>();  // shared: CLI11 copies the callback
  add_model_options(*command, program.settings, ModelArgument::kRequired, options->model);
  CLI::Option_group* input = command->add_option_group("input");
  input->add_option("--text", options->text_path, "text file");
  input->add_option("--ids", options->ids_path, "JSON file with an array of token ids");
  input->require_option(1);
  command->add_option("--chunk", options->chunk, "ids in one forward pass")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_flag("--json", options->json, "print one JSON object");
  command->callback([&program, options] {
    program.action = [&program, options] { return run_perplexity(program, *options); };
  });
}

}  // namespace conclave::apps
