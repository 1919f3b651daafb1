#include "apps/repl.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

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

Error file_error(const std::string& path) {
  return unavailable(fmt::format("{}: {}", path, std::generic_category().message(errno)));
}

// All of it or nothing: a file that was there stays until the new one is whole.
Result<void> replace_file(const std::string& path, std::string_view content) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    return invalid_input(fmt::format("{}: not a regular file", path));
  }
  const std::string partial = fmt::format("{}.{}.partial", path, getpid());
  const int fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return file_error(path);
  // Not Output: its errors do not name a file.
  Result<void> result;
  while (result && !content.empty()) {
    const ssize_t written = write(fd, content.data(), content.size());
    if (written >= 0) {
      content.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      result = file_error(path);
    }
  }
  if (close(fd) != 0 && result) result = file_error(path);
  if (result && std::rename(partial.c_str(), path.c_str()) != 0) result = file_error(path);
  if (!result) unlink(partial.c_str());
  return result;
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
    interrupts_.take();  // a Ctrl-C that came too late for the answer before
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
  const std::string content =
      document.dump(2, ' ', false, text::Json::error_handler_t::replace) + "\n";
  if (const Result<void> saved = replace_file(path, content); !saved) {
    return say(fmt::format("{}: choose another place\n", saved.error().message));
  }
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
