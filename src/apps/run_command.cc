// conclave run: a conversation in the terminal, or one answer in a pipe.
#include <unistd.h>

#include <memory>
#include <string>

#include "apps/chat_session.h"
#include "apps/interrupts.h"
#include "apps/line_reader.h"
#include "apps/loaded_model.h"
#include "apps/program.h"
#include "apps/repl.h"
#include "formats/formats.h"

namespace conclave::apps {
namespace {

struct RunOptions {
  ModelOptions model;
  ChatOptions chat;
  std::optional<std::string> prompt;
  bool json = false;
  bool quiet = false;
};

Result<int> answer_once(Program& program, ChatSession& session, InterruptGuard& interrupts,
                        const RunOptions& options, const ReplOptions& show) {
  const std::string question = options.prompt ? *options.prompt : TRY(read_all(STDIN_FILENO));
  if (question.find_first_not_of(" \t\r\n") == std::string::npos) {
    return invalid_input("the prompt is empty: give -p TEXT or write text to the input");
  }
  const Answer answer = TRY(ask_and_show(program, session, interrupts, question, show));
  return answer.finish_reason == "cancelled" ? kExitInterrupted : kExitOk;
}

Result<int> run_chat(Program& program, const RunOptions& options) {
  const std::filesystem::path dir = TRY(find_model(options.model, program.binary));
  std::unique_ptr<model::ModelSource> source = TRY(open_source(dir));
  const text::TextModel text = TRY(load_text(dir, source->config()));
  if (!text.has_chat_template()) {
    return unsupported(dir.string() +
                       ": no chat template: use a checkpoint that was trained to chat");
  }
  LoadPlan plan;
  plan.quiet = options.quiet;
  const LoadedModel loaded = TRY(load_model(program, options.model, plan, std::move(source)));

  ChatOptions chat = options.chat;
  chat.context_max = loaded.context;
  ChatSession session(program.clock, *loaded.backend, text, chat);
  ReplOptions show;
  show.model_name = formats::model_name(loaded.dir);
  show.backend = loaded.backend->describe();
  show.context = loaded.context;
  show.json = options.json;
  show.quiet = options.quiet;

  InterruptGuard interrupts;
  if (options.prompt || !program.terminal.stdin_is_tty) {
    return answer_once(program, session, interrupts, options, show);
  }
  return Repl(program, session, interrupts, show).run();
}

void add_sampling_options(CLI::App& command, Settings& settings, ChatOptions& chat) {
  const CLI::Range probability(0.0, 1.0);
  settings.bind(command.add_option("--temperature", chat.temperature, "0: always the best token")
                    ->check(CLI::Range(0.0, 100.0)),
                "run.temperature");
  settings.bind(command.add_option("--top-p", chat.top_p, "smallest set of this probability")
                    ->check(probability),
                "run.top_p");
  settings.bind(command.add_option("--top-k", chat.top_k, "the k best tokens alone (0: off)")
                    ->check(CLI::Range(0, 1 << 20)),
                "run.top_k");
  settings.bind(command
                    .add_option("--min-p", chat.min_p,
                                "least share of the best token's "
                                "probability")
                    ->check(probability),
                "run.min_p");
  settings.bind(command.add_option("--repetition-penalty", chat.repetition_penalty, "1: off")
                    ->check(CLI::Range(0.01, 100.0)),
                "run.repetition_penalty");
  settings.bind(command.add_option("--seed", chat.seed, "the same seed, the same answer")
                    ->check(not_negative),
                "run.seed");
  settings.bind(command
                    .add_option("--max-tokens", chat.max_tokens,
                                "longest answer in tokens (0: up to the context)")
                    ->check(not_negative),
                "run.max_tokens");
  command.add_option("--stop", chat.stops, "text that ends the answer; may be repeated")
      ->expected(1)
      ->check(not_empty)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

}  // namespace

void add_run_command(CLI::App& root, Program& program) {
  CLI::App* command =
      root.add_subcommand("run", "Talk to a model: here, with -p, or through a pipe");
  auto options = std::make_shared<RunOptions>();  // shared: CLI11 copies the callback
  add_model_options(*command, program.settings, ModelArgument::kOptional, options->model);
  command->add_option("-p,--prompt", options->prompt, "answer this once and leave")
      ->check(not_blank);
  program.settings.bind(command->add_option("--system", options->chat.system, "system message"),
                        "run.system");
  add_sampling_options(*command, program.settings, options->chat);
  command->add_flag("--json", options->json, "print one JSON object per answer");
  program.settings.bind(
      command->add_flag("-q,--quiet", options->quiet, "no progress and no speed on stderr"),
      "run.quiet");
  command->callback([&program, options] {
    program.action = [&program, options] { return run_chat(program, *options); };
  });
}

}  // namespace conclave::apps
