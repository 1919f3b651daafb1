#include <utility>

#include "text/text.h"

namespace conclave::text {
namespace {

void add_content(std::vector<OutputEvent>& events, std::string text) {
  if (!text.empty()) {
    events.push_back({.kind = OutputEvent::Kind::kContent, .text = std::move(text)});
  }
}

}  // namespace

AnswerParser::AnswerParser(OutputParser parser, std::vector<std::string> stops)
    : parser_(std::move(parser)), stops_(std::move(stops)) {}

std::vector<OutputEvent> AnswerParser::push(TokenId id) { return pass(parser_.push(id)); }

std::vector<OutputEvent> AnswerParser::finish() {
  std::vector<OutputEvent> shown = pass(parser_.finish());
  add_content(shown, stops_.finish());  // nothing after a stop string
  return shown;
}

std::vector<OutputEvent> AnswerParser::pass(std::vector<OutputEvent> outputs) {
  std::vector<OutputEvent> shown;
  for (OutputEvent& output : outputs) {
    if (stopped_) break;
    in_reasoning_ = output.kind == OutputEvent::Kind::kReasoning;
    if (output.kind == OutputEvent::Kind::kContent) {
      content_bytes_ += output.text.size();
      StopStrings::Output passed = stops_.push(output.text);
      stopped_ = passed.stopped_by.has_value();
      add_content(shown, std::move(passed.text));
      continue;
    }
    // What might have begun a stop string was content before the call.
    if (output.kind == OutputEvent::Kind::kToolBegin) add_content(shown, stops_.finish());
    shown.push_back(std::move(output));
  }
  return shown;
}

}  // namespace conclave::text
