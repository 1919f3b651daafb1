// conclave perplexity: how well the model predicts a text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
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
  std::string compare;  // another --weights, or nothing
  std::size_t chunk = 512;
  bool json = false;
};

Result<std::vector<TokenId>> read_ids(const PerplexityOptions& options,
                                      const model::ModelSource& source) {
  if (!options.ids_path.empty()) {
    return read_token_ids(options.ids_path, source.config().vocab_size);
  }
  const std::string words = TRY(read_text_file(options.text_path, kTextBytesMax));
  const text::TextModel tokenizer = TRY(load_text(source.path(), source.config()));
  return tokenizer.encode(words, text::Specials::kPlain);
}

// How well one way of keeping the weights predicts the text.
struct Measured {
  std::string weights;
  double nll = 0.0;
};

std::string json_report(std::span<const Measured> runs, std::size_t tokens) {
  nlohmann::ordered_json object;
  object["nll"] = runs.front().nll;
  object["perplexity"] = std::exp(runs.front().nll);
  object["tokens"] = tokens;
  object["weights"] = runs.front().weights;
  if (runs.size() > 1) {
    object["compared"] = {
        {"weights", runs[1].weights}, {"nll", runs[1].nll}, {"perplexity", std::exp(runs[1].nll)}};
  }
  return object.dump() + "\n";
}

std::string report(std::span<const Measured> runs, std::size_t tokens) {
  const Measured& first = runs.front();
  if (runs.size() == 1) {
    return fmt::format("{} tokens, mean negative log-likelihood {:.6f}, perplexity {:.4f}\n",
                       tokens, first.nll, std::exp(first.nll));
  }
  std::string text = fmt::format("{} tokens\n", tokens);
  for (const Measured& run : runs) {
    text += fmt::format("  --weights {:<6}  negative log-likelihood {:.6f}, perplexity {:.4f}\n",
                        run.weights, run.nll, std::exp(run.nll));
  }
  return text + fmt::format("  {} costs {:+.2f} % in perplexity\n", first.weights,
                            (std::exp(first.nll - runs[1].nll) - 1.0) * 100.0);
}

struct Text {
  std::vector<TokenId> ids;
  std::size_t chunk;
};

// Loads the weights, and lets them go before it returns.
Result<Measured> measure(Program& program, const ModelOptions& options, const Text& text,
                         std::unique_ptr<model::ModelSource> source) {
  LoadPlan plan;
  plan.tokens = text.ids.size();
  plan.rows_max = text.chunk;
  const LoadedModel loaded = TRY(load_model(program, options, plan, std::move(source)));
  ProgressLine line(program.clock, program.terminal, "evaluating", /*quiet=*/false);
  double total = 0.0;
  TRY(engine::evaluate(*loaded.backend, text.ids,
                       {.chunk_tokens = text.chunk, .forced_experts = {}},
                       [&](const engine::EvaluatedRow& row) {
                         line.update_items(row.position + 1, text.ids.size(), "tokens");
                         if (row.position + 1 == text.ids.size()) return;
                         total += token_loss(row.logits, text.ids[row.position + 1]);
                       }));
  line.clear();
  const double nll = total / static_cast<double>(text.ids.size() - 1);
  if (!std::isfinite(nll)) {
    return corrupt(
        fmt::format("{}: the model gives logits that are not numbers: its weights are "
                    "damaged",
                    loaded.dir.string()));
  }
  return Measured{options.weights, nll};
}

Result<int> run_perplexity(Program& program, const PerplexityOptions& options) {
  const std::filesystem::path dir = TRY(find_model(options.model, program.binary));
  std::unique_ptr<model::ModelSource> source = TRY(open_source(dir));
  Text text{TRY(read_ids(options, *source)), 0};
  const std::string& path = options.ids_path.empty() ? options.text_path : options.ids_path;
  const std::size_t context = TRY(context_of(program, source->config(), options.model));
  if (text.ids.size() < 2) {
    return invalid_input(fmt::format("{}: {} token: give at least 2", path, text.ids.size()));
  }
  if (text.ids.size() > context) {
    return invalid_input(fmt::format("{}: {} tokens, the context is {}: give a shorter text", path,
                                     text.ids.size(), context));
  }
  text.chunk = std::min(options.chunk, text.ids.size());
  std::vector<Measured> runs;
  runs.push_back(TRY(measure(program, options.model, text, std::move(source))));
  if (!options.compare.empty()) {
    ModelOptions other = options.model;
    other.weights = options.compare;
    source = TRY(open_source(dir));
    runs.push_back(TRY(measure(program, other, text, std::move(source))));
  }
  const std::size_t predicted = text.ids.size() - 1;
  TRY(program.output.write(options.json ? json_report(runs, predicted) : report(runs, predicted)));
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
  command
      ->add_option("--compare", options->compare,
                   "measure this other --weights too, and what the first costs")
      ->check(weights_modes());
  command->add_flag("--json", options->json, "print one JSON object");
  command->callback([&program, options] {
    program.action = [&program, options] { return run_perplexity(program, *options); };
  });
}

}  // namespace conclave::apps
