#include "apps/answer_printer.h"

#include <fmt/format.h>

namespace conclave::apps {

using text::OutputEvent;

void AnswerPrinter::write(std::string_view text) {
  if (!result_ || text.empty()) return;
  line_open_ = text.back() != '\n';
  result_ = output_.write(text);
}

void AnswerPrinter::enter(Section section) {
  if (section == section_) return;
  if (section_ != Section::kNone) {
    if (line_open_) write("\n");
    if (section_ == Section::kReasoning) write("\n");
  }
  if (section == Section::kReasoning && !color_) write("(thinking)\n");
  section_ = section;
}

void AnswerPrinter::show(const OutputEvent& event) {
  const std::string text = tty_ ? without_controls(event.text) : event.text;
  switch (event.kind) {
    case OutputEvent::Kind::kReasoning:
      if (!tty_) return;
      enter(Section::kReasoning);
      write(dim(text, color_));
      break;
    case OutputEvent::Kind::kContent:
      enter(Section::kContent);
      write(text);
      break;
    case OutputEvent::Kind::kToolBegin:
      section_ = section_ == Section::kTool ? Section::kContent : section_;
      enter(Section::kTool);
      write(fmt::format("{}(", tty_ ? without_controls(event.tool_name) : event.tool_name));
      break;
    case OutputEvent::Kind::kToolArguments:
      write(text);
      break;
    case OutputEvent::Kind::kToolEnd:
      write(")");
      break;
  }
}

Result<void> AnswerPrinter::finish() {
  if (line_open_) write("\n");
  return result_;
}

std::string speed_line(const Answer& answer) {
  std::string line = fmt::format("first token {:.2f} s", answer.ttft_s);
  if (answer.tokens_per_second > 0) {
    line += fmt::format(", {:.1f} tok/s", answer.tokens_per_second);
  }
  line += fmt::format(", {} tokens", answer.completion_tokens);
  if (answer.finish_reason != "stop") line += fmt::format(" ({})", answer.finish_reason);
  return line;
}

}  // namespace conclave::apps
