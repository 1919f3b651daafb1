// conclave logits: the best tokens after every position of a list of ids.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "apps/json_text.h"
#include "apps/loaded_model.h"
#include "apps/program.h"
#include "apps/token_file.h"
#include "engine/engine.h"

namespace conclave::apps {
namespace {

constexpr std::size_t kWriteBytes = std::size_t{1} << 20;

struct LogitsOptions {
  ModelOptions model;
  std::string ids_path;
  std::size_t top = 10;
  std::size_t chunk = 512;
  std::string dump_experts_path;
  std::string force_experts_path;
};

// Collects small pieces and writes them in large ones.
class JsonStream {
 public:
  explicit JsonStream(Output& output) : output_(output) {}
  Result<void> add(std::string_view text) {
    held_ += text;
    if (held_.size() < kWriteBytes) return {};
    return flush();
  }
  Result<void> flush() {
    TRY(output_.write(held_));
    held_.clear();
    return {};
  }

 private:
  Output& output_;
  std::string held_;
};

class FileOutput {
 public:
  static Result<std::unique_ptr<FileOutput>> create(const std::string& path) {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
      return invalid_input(
          fmt::format("{}: cannot write: {}", path, std::generic_category().message(errno)));
    }
    return std::make_unique<FileOutput>(fd);
  }
  explicit FileOutput(int fd) : fd_(fd), output_(fd) {}
  FileOutput(const FileOutput&) = delete;
  FileOutput& operator=(const FileOutput&) = delete;
  ~FileOutput() { close(fd_); }
  Output& output() { return output_; }

 private:
  int fd_;
  Output output_;
};

// Writes both documents while the evaluation runs; keeps the first error.
class LogitsWriter {
 public:
  LogitsWriter(Output& output, FileOutput* dump, std::size_t top, std::size_t experts_per_token)
      : logits_(output), top_(top), experts_per_token_(experts_per_token) {
    if (dump != nullptr) experts_.emplace(dump->output());
  }

  void add(const engine::EvaluatedRow& row) {
    if (!result_) return;
    result_ = write(row);
  }

  Result<void> finish() {
    TRY(std::move(result_));
    TRY(logits_.add("]}\n"));
    TRY(logits_.flush());
    if (!experts_) return {};
    TRY(experts_->add("]\n"));
    return experts_->flush();
  }

 private:
  Result<void> write(const engine::EvaluatedRow& row) {
    const bool finite = std::all_of(row.logits.begin(), row.logits.end(),
                                    [](float logit) { return std::isfinite(logit); });
    if (!finite) {
      return corrupt(fmt::format(
          "position {}: the model gives a logit that is not a number: its weights are damaged",
          row.position));
    }
    TRY(logits_.add(row.position == 0 ? "{\"positions\":[\n" : ",\n"));
    TRY(logits_.add(position_json(row.logits, best_tokens(row.logits, top_))));
    if (!experts_) return {};
    TRY(experts_->add(row.position == 0 ? "[" : ",\n"));
    return experts_->add(experts_json(row.experts, experts_per_token_));
  }

  JsonStream logits_;
  std::optional<JsonStream> experts_;
  std::size_t top_;
  std::size_t experts_per_token_;
  Result<void> result_;
};

Result<int> run_logits(Program& program, const LogitsOptions& options) {
  const std::filesystem::path dir = TRY(find_model(options.model, program.binary));
  std::unique_ptr<model::ModelSource> source = TRY(open_source(dir));
  const model::ModelConfig& config = source->config();
  const std::vector<TokenId> ids = TRY(read_token_ids(options.ids_path, config.vocab_size));
  const std::size_t context = TRY(context_of(program, config, options.model));
  if (ids.size() > context) {
    return invalid_input(fmt::format("{}: {} ids, the context is {}: give fewer", options.ids_path,
                                     ids.size(), context));
  }
  std::vector<ExpertId> forced;
  if (!options.force_experts_path.empty()) {
    forced = TRY(read_experts(options.force_experts_path, config, ids.size()));
  }
  std::unique_ptr<FileOutput> dump;
  if (!options.dump_experts_path.empty()) dump = TRY(FileOutput::create(options.dump_experts_path));

  const std::size_t chunk = std::min(options.chunk, ids.size());
  LoadPlan plan;
  plan.tokens = ids.size();
  plan.rows_max = chunk;
  const LoadedModel loaded = TRY(load_model(program, options.model, plan, std::move(source)));
  LogitsWriter writer(program.output, dump.get(), options.top, loaded.config().experts_per_token);
  TRY(engine::evaluate(*loaded.backend, ids, {.chunk_tokens = chunk, .forced_experts = forced},
                       [&writer](const engine::EvaluatedRow& row) { writer.add(row); }));
  TRY(writer.finish());
  return kExitOk;
}

}  // namespace

void add_logits_command(CLI::App& root, Program& program) {
  CLI::App* command = root.add_subcommand(
      "logits", "Print the best next tokens and their logits after every id of a list");
  auto options = std::make_shared<LogitsOptions>();  // shared: CLI11 copies the callback
  add_model_options(*command, program.settings, ModelArgument::kRequired, options->model);
  command->add_option("--ids", options->ids_path, "JSON file with an array of token ids")
      ->required();
  command->add_option("--top", options->top, "tokens per position (above the vocabulary: all)")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option("--chunk", options->chunk, "ids in one forward pass")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_option("--dump-experts", options->dump_experts_path,
                      "write the chosen experts: JSON [position][MoE layer][k]");
  command->add_option("--force-experts", options->force_experts_path,
                      "use these experts, weights recomputed: the same JSON");
  command->callback([&program, options] {
    program.action = [&program, options] { return run_logits(program, *options); };
  });
}

}  // namespace conclave::apps
