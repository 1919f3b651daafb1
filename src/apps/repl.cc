#include "apps/repl.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

#include "apps/answer_printer.h"

namespace conclave::apps {
namespace {

constexpr std::string_view kHelp =
    "/help        this list\n"
    "/clear       forget the conversation\n"
    "/save FILE   write the conversation as JSON\n"
    "/stats       speed and context so far\n"
    "/exit        leave (also Ctrl-D)\n"
    "Ctrl-C stops an answer.\n";

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

}  // namespace

Result<Answer> ask_and_show(Program& program, ChatSession& session, InterruptGuard& interrupts,
                            std::string_view question, const ReplOptions& options) {
  AnswerPrinter printer(program.output, program.terminal);
  ProgressLine line(program.clock, program.terminal, "reading", options.quiet);
  AnswerSink sink;
  if (!options.json) {
    sink.event = [&](const text::OutputEvent& event) {
      line.clear();
      printer.show(event);
    };
  }
  sink.prefill = [&line](std::size_t done, std::size_t total) {
    line.update_items(done, total, "prompt tokens");
  };
  sink.stop_wanted = [&] { return interrupts.pending() || printer.failed(); };

  Result<Answer> answer = session.ask(question, sink);
  line.clear();
  TRY(printer.finish());
  if (!answer) return answer;
  if (options.json) {
    // Invalid UTF-8 cannot reach here, but a dump must not throw either.
    const std::string json =
        to_json(*answer).dump(-1, ' ', false, text::Json::error_handler_t::replace);
    TRY(program.output.write(json + "\n"));
  }
  if (!options.quiet) {
    say(dim(speed_line(*answer), program.terminal.color_stderr()) + "\n");
  }
  return answer;
}

Repl::Repl(Program& program, ChatSession& session, InterruptGuard& interrupts, ReplOptions options)
    : program_(program),
      session_(session),
      interrupts_(interrupts),
      options_(std::move(options)),
      lines_(STDIN_FILENO) {}

Result<int> Repl::run() {
  say(fmt::format("{}. /help lists commands, Ctrl-C stops an answer, Ctrl-D leaves.\n",
                  options_.model_name));
  bool interrupted_once = false;
  std::string line;
  while (true) {
    say("\n> ");
    const LineReader::Outcome outcome = TRY(lines_.next(line));
    if (outcome == LineReader::Outcome::kEnd) {
      say("\n");
      return kExitOk;
    }
    if (outcome == LineReader::Outcome::kInterrupted) {
      if (!interrupts_.take()) continue;  // another signal: the window was resized
      if (interrupted_once) {
        say("\n");
        return kExitInterrupted;
      }
      interrupted_once = true;
      say("\n(Ctrl-C again or /exit leaves)");
      continue;
    }
    interrupted_once = false;
    const std::string_view question = trimmed(line);
    if (question.empty()) continue;
    if (question.front() == '/') {
      if (command(question) == Next::kLeave) return kExitOk;
      continue;
    }
    const Result<Answer> answer = ask_and_show(program_, session_, interrupts_, question, options_);
    interrupts_.take();
    if (program_.output.closed()) return kExitOk;
    if (!answer) say(fmt::format("conclave: {}\n", answer.error().message));
  }
}

Repl::Next Repl::command(std::string_view line) {
  const std::size_t space = line.find(' ');
  const std::string_view name = line.substr(0, space);
  const std::string_view argument =
      space == std::string_view::npos ? std::string_view{} : trimmed(line.substr(space));
  if (name == "/exit" || name == "/quit" || name == "/bye") return Next::kLeave;
  if (name == "/help") {
    say(kHelp);
  } else if (name == "/clear") {
    session_.clear();
    say("The conversation is forgotten.\n");
  } else if (name == "/stats") {
    print_stats();
  } else if (name == "/save") {
    save(std::string(argument));
  } else {
    say(fmt::format("{} is no command: /help lists them\n", without_controls(name)));
  }
  return Next::kContinue;
}

void Repl::save(const std::string& path) const {
  if (path.empty()) return say("Name a file: /save FILE\n");
  text::Json document;
  document["model"] = options_.model_name;
  document["messages"] = session_.messages();
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << document.dump(2, ' ', false, text::Json::error_handler_t::replace) << '\n';
  file.close();
  if (!file) return say(fmt::format("{}: cannot write: choose another place\n", path));
  say(fmt::format("Saved {} messages to {}.\n", session_.messages().size(), path));
}

void Repl::print_stats() const {
  const ChatSession::Totals& totals = session_.totals();
  const double rate = totals.generating_s > 0
                          ? static_cast<double>(totals.completion_tokens) / totals.generating_s
                          : 0.0;
  say(fmt::format(
      "{} on {}\n{} answers, {} prompt tokens, {} answer tokens, {:.1f} tok/s\ncontext {} of {} "
      "tokens\n",
      options_.model_name, options_.backend, totals.answers, totals.prompt_tokens,
      totals.completion_tokens, rate, totals.context_used, options_.context));
}

}  // namespace conclave::apps
