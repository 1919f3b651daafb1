// Shows an answer while it grows.
#pragma once

#include <string>
#include <string_view>

#include "apps/chat_session.h"
#include "apps/terminal.h"
#include "base/result.h"

namespace conclave::apps {

// On a terminal reasoning is dim (or in "(thinking)" lines without colour) and control characters
// are removed. Elsewhere only the content and the tool calls are written, as the model gave them.
class AnswerPrinter {
 public:
  // `output` must outlive the printer.
  AnswerPrinter(Output& output, const Terminal& terminal)
      : output_(output), tty_(terminal.stdout_is_tty), color_(terminal.color_stdout()) {}

  void show(const text::OutputEvent& event);
  // Ends the last line. Reports the first write that failed.
  Result<void> finish();
  bool failed() const { return !result_.has_value(); }

 private:
  enum class Section { kNone, kReasoning, kContent, kTool };
  void enter(Section section);
  void write(std::string_view text);

  Output& output_;
  bool tty_;
  bool color_;
  Section section_ = Section::kNone;
  bool line_open_ = false;
  Result<void> result_;
};

// "first token 0.21 s, 35.2 tok/s, 128 tokens"
std::string speed_line(const Answer& answer);

}  // namespace conclave::apps
