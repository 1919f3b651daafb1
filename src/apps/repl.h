// The interactive conversation of `conclave run`.
#pragma once

#include <string>

#include "apps/chat_session.h"
#include "apps/interrupts.h"
#include "apps/line_reader.h"
#include "apps/program.h"
#include "base/result.h"

namespace conclave::apps {

struct ReplOptions {
  std::string model_name;   // shown, and saved with the conversation
  std::string backend;      // for /stats
  std::size_t context = 0;  // for /stats
  bool json = false;        // one JSON object per answer instead of text
  bool quiet = false;       // no speed line
};

// Asks one question and shows the answer: growing text, or one JSON object.
Result<Answer> ask_and_show(Program& program, ChatSession& session, InterruptGuard& interrupts,
                            std::string_view question, const ReplOptions& options);

// Reads questions and commands until /exit or the end of the input. Returns the exit code: Ctrl-C
// during an answer ends the answer, twice at the prompt ends the program with 130.
class Repl {
 public:
  // All references must outlive the Repl.
  Repl(Program& program, ChatSession& session, InterruptGuard& interrupts, ReplOptions options);
  Result<int> run();

 private:
  enum class Next { kContinue, kLeave };
  Next command(std::string_view line);
  void save(const std::string& path) const;
  void print_stats() const;

  Program& program_;
  ChatSession& session_;
  InterruptGuard& interrupts_;
  ReplOptions options_;
  LineReader lines_;
};

}  // namespace conclave::apps
