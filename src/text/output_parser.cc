#include <algorithm>
#include <utility>

#include "text/call_header.h"
#include "text/hold_back.h"
#include "text/output_state.h"

namespace conclave::text {
namespace {

constexpr std::size_t kHeaderBytesMax = 1024;                // text beyond it is dropped
constexpr std::size_t kBodyBytesMax = std::size_t{1} << 20;  // longer ones are content
constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";
// Not in the vocabulary, yet written now and then in place of the plural tokens.
constexpr std::string_view kSectionBeginText = "<|tool_call_section_begin|>";
constexpr std::string_view kSectionEndText = "<|tool_call_section_end|>";

constexpr std::array<std::string_view, kMarks> kKimiMarks{kThink,
                                                          kEndThink,
                                                          "<|tool_calls_section_begin|>",
                                                          "<|tool_calls_section_end|>",
                                                          "<|tool_call_begin|>",
                                                          "<|tool_call_argument_begin|>",
                                                          "<|tool_call_end|>"};
constexpr std::array<std::string_view, kMarks> kDeepSeekMarks{kThink,
                                                              kEndThink,
                                                              "<｜tool▁calls▁begin｜>",
                                                              "<｜tool▁calls▁end｜>",
                                                              "<｜tool▁call▁begin｜>",
                                                              "<｜tool▁sep｜>",
                                                              "<｜tool▁call▁end｜>"};
constexpr std::string_view kCallBeginTag = "<tool_call>";
constexpr std::string_view kCallEndTag = "</tool_call>";
constexpr std::array<std::string_view, kMarks> kTaggedMarks{
    kThink, kEndThink, "", "", kCallBeginTag, "", kCallEndTag};

Mark mark_of_text(std::string_view text) {
  if (text == kEndThink) return Mark::kEndThink;
  return text == kSectionBeginText ? Mark::kSectionBegin : Mark::kSectionEnd;
}

}  // namespace

std::optional<Mark> MarkTable::find(TokenId id) const {
  const auto found = std::find(ids.begin(), ids.end(), std::optional(id));
  if (found == ids.end()) return std::nullopt;
  return static_cast<Mark>(found - ids.begin());
}

MarkTable find_marks(const Vocabulary& vocabulary) {
  MarkTable table;
  const auto take = [&](CallForm form, const std::array<std::string_view, kMarks>& names) {
    const bool has = std::all_of(names.begin() + 4, names.end(), [&](std::string_view name) {
      return name.empty() || vocabulary.special(name).has_value();
    });
    if (!has) return;
    table.form = form;
    for (std::size_t i = 0; i < kMarks; ++i) table.ids[i] = vocabulary.special(names[i]);
  };
  table.ids[0] = vocabulary.special(kThink);
  table.ids[1] = vocabulary.special(kEndThink);
  take(CallForm::kTagged, kTaggedMarks);
  take(CallForm::kKimi, kKimiMarks);
  take(CallForm::kDeepSeek, kDeepSeekMarks);
  return table;
}

bool starts_in_reasoning(const Vocabulary& vocabulary, const MarkTable& marks,
                         std::span<const TokenId> prompt) {
  constexpr std::size_t kTail = 16;  // "<think>" spelled in bytes, and some white space
  std::string tail;
  for (std::size_t i = prompt.size(); i > 0 && prompt.size() - i < kTail; --i) {
    const TokenId id = prompt[i - 1];
    if (marks.id(Mark::kThink) == id) return trimmed(tail).empty();
    if (marks.find(id) || vocabulary.hidden(id)) return false;
    tail.insert(0, vocabulary.bytes(id));
    const bool in_letters = marks.form == CallForm::kKimi && !marks.id(Mark::kThink);
    if (in_letters && trimmed(tail) == kThink) return true;
  }
  return false;
}

MarkedOutput::MarkedOutput(const Vocabulary& vocabulary, MarkTable table,
                           std::span<const TokenId> prompt, ToolTypes types)
    : vocabulary_(vocabulary), marks_(table), types_(std::move(types)) {
  if (starts_in_reasoning(vocabulary, table, prompt)) place_ = Place::kReasoning;
  if (const auto begin = table.id(Mark::kCallBegin)) {
    calls_before_ = static_cast<std::size_t>(std::count(prompt.begin(), prompt.end(), *begin));
  }
  if (table.form != CallForm::kKimi) return;
  content_patterns_ = {std::string(kSectionBeginText)};
  reasoning_patterns_ = content_patterns_;
  // Some Kimi vocabularies spell the tags in several tokens.
  if (!table.id(Mark::kEndThink)) reasoning_patterns_.emplace_back(kEndThink);
  section_patterns_ = {std::string(kSectionEndText)};
}

void MarkedOutput::push(TokenId id) {
  if (const auto mark = marks_.find(id)) {
    on_text(utf8_.finish());
    if (at_start_ && trimmed(pending_).empty()) pending_.clear();
    drain(/*last=*/true);
    on_mark(*mark);
    return;
  }
  if (vocabulary_.hidden(id)) return;
  on_text(utf8_.push(vocabulary_.bytes(id)));
}

void MarkedOutput::finish() {
  on_text(utf8_.finish());
  drain(/*last=*/true);
  if (place_ == Place::kFence) end_fence(/*last=*/true);
  if (place_ == Place::kArguments) end_arguments();
  if (place_ == Place::kBody) end_body(/*whole=*/false);
  place_ = Place::kContent;
}

void MarkedOutput::on_mark(Mark mark) {
  if (place_ == Place::kHeader || place_ == Place::kFence || place_ == Place::kArguments) {
    on_mark_in_call(mark);
    return;
  }
  if (place_ == Place::kBody && on_mark_in_body(mark)) return;
  at_start_ = false;
  switch (mark) {
    case Mark::kThink:
      if (place_ == Place::kContent || marks_.form == CallForm::kTagged) {
        place_ = Place::kReasoning;
      }
      break;
    case Mark::kEndThink:
    case Mark::kSectionEnd:
      place_ = Place::kContent;
      break;
    case Mark::kSectionBegin:
      // The model sometimes forgets </think> before its calls.
      place_ = Place::kSection;
      header_.clear();
      break;
    case Mark::kCallBegin:  // with or without a section around it
      before_body_ = place_;
      place_ = marks_.form == CallForm::kTagged ? Place::kBody : Place::kHeader;
      header_.clear();
      break;
    case Mark::kHeaderEnd:
      if (place_ == Place::kSection && !header_.empty()) end_header();
      break;
    case Mark::kCallEnd:
      break;
  }
}

void MarkedOutput::on_mark_in_call(Mark mark) {
  if (mark == Mark::kThink || mark == Mark::kEndThink || mark == Mark::kSectionBegin) return;
  if (mark == Mark::kHeaderEnd) {
    if (place_ == Place::kHeader) end_header();
    return;
  }
  if (place_ == Place::kHeader && mark != Mark::kCallBegin && !trimmed(header_).empty()) {
    end_header();  // a call without arguments
  }
  if (place_ == Place::kFence) end_fence(/*last=*/true);
  if (place_ == Place::kArguments) {
    if (!arguments_shown_) add_arguments("{}");
    end_arguments();
  }
  header_.clear();
  place_ = mark == Mark::kCallBegin    ? Place::kHeader
           : mark == Mark::kSectionEnd ? Place::kContent
                                       : Place::kSection;
}

void MarkedOutput::on_text(std::string_view text) {
  if (text.empty()) return;
  pending_ += text;
  drain(/*last=*/false);
}

std::span<const std::string> MarkedOutput::patterns() const {
  switch (place_) {
    case Place::kContent:
      return content_patterns_;
    case Place::kReasoning:
      return reasoning_patterns_;
    case Place::kSection:
      return section_patterns_;
    default:
      return {};
  }
}

// Shows `pending_` up to what may still become a mark; `last`: nothing follows, show all.
void MarkedOutput::drain(bool last) {
  if (at_start_ && place_ == Place::kContent && !drain_start(last)) return;
  while (!pending_.empty()) {
    if (const auto found = find_first(pending_, patterns())) {
      const std::string mark = patterns()[found->pattern];
      show(std::string_view(pending_).substr(0, found->position));
      pending_.erase(0, found->position + mark.size());
      on_mark(mark_of_text(mark));
      continue;
    }
    const std::size_t held = last ? 0 : held_size(pending_, patterns());
    const std::string text = pending_.substr(0, pending_.size() - held);
    pending_.erase(0, text.size());
    show(text);
    return;
  }
}

// An answer may open with white space and <think> in letters. False: wait for more.
bool MarkedOutput::drain_start(bool last) {
  const std::string_view start = trimmed(pending_);
  const bool in_letters = marks_.form == CallForm::kKimi && !marks_.id(Mark::kThink);
  if (in_letters && start.starts_with(kThink)) {
    pending_.erase(0, pending_.find(kThink) + kThink.size());
    place_ = Place::kReasoning;
  } else if (!last && (start.empty() || (in_letters && kThink.starts_with(start)))) {
    return false;
  }
  at_start_ = false;
  return true;
}

void MarkedOutput::show(std::string_view text) {
  if (text.empty()) return;
  switch (place_) {
    case Place::kContent:
      events.push_back({.kind = OutputEvent::Kind::kContent, .text = std::string(text)});
      break;
    case Place::kReasoning:
      events.push_back({.kind = OutputEvent::Kind::kReasoning, .text = std::string(text)});
      break;
    case Place::kBody:
      header_ += text;
      if (header_.size() > kBodyBytesMax) end_body(/*whole=*/false);
      break;
    case Place::kSection:  // white space, or a header whose begin mark was left out
    case Place::kHeader:
      if (place_ == Place::kSection && marks_.form == CallForm::kTagged) {
        show_after_call(text);
        break;
      }
      if (place_ == Place::kSection && header_.empty() && trimmed(text).empty()) break;
      if (header_.size() + text.size() <= kHeaderBytesMax) header_ += text;
      break;
    case Place::kFence:
      header_ += text;
      end_fence(/*last=*/false);
      break;
    case Place::kArguments:
      add_arguments(text);
      break;
  }
}

// White space around the arguments, and a closing fence, are not theirs.
void MarkedOutput::add_arguments(std::string_view text) {
  const std::string_view edge = fenced_ ? " \t\r\n`" : " \t\r\n";
  held_space_ += text;
  if (!arguments_shown_) {
    held_space_.erase(0, std::min(held_space_.find_first_not_of(" \t\r\n"), held_space_.size()));
  }
  const std::size_t end = held_space_.find_last_not_of(edge);
  if (end == std::string::npos) return;
  events.push_back({.kind = OutputEvent::Kind::kToolArguments,
                    .text = held_space_.substr(0, end + 1),
                    .tool_index = n_calls - 1});
  held_space_.erase(0, end + 1);
  arguments_shown_ = true;
}

void MarkedOutput::end_header() {
  const std::string header = std::exchange(header_, {});
  if (marks_.form == CallForm::kDeepSeek) {
    const std::string name(trimmed(header));
    if (name == "function") {
      place_ = Place::kFence;
      return;
    }
    begin_arguments(fallback_id(name), name);
    return;
  }
  CallHeader call = parse_kimi_header(header, calls_before_ + static_cast<std::size_t>(n_calls));
  begin_arguments(std::move(call.id), std::move(call.name));
}

void MarkedOutput::end_fence(bool last) {
  const auto header = parse_fence_header(header_, last || header_.size() > kHeaderBytesMax);
  if (!header) return;
  const std::string text = std::exchange(header_, {});
  const std::string name = header->name.empty() ? "function" : header->name;
  begin_arguments(fallback_id(name), name);
  fenced_ = header->fenced;
  add_arguments(std::string_view(text).substr(header->args_begin));
}

void MarkedOutput::begin_arguments(std::string id, std::string name) {
  begin_call(std::move(id), std::move(name));
  place_ = Place::kArguments;
  held_space_.clear();
  arguments_shown_ = false;
  fenced_ = false;
}

void MarkedOutput::end_arguments() {
  end_call();
  place_ = Place::kSection;
}

// Calls of the tagged forms have nothing around them: what follows one is content again.
void MarkedOutput::show_after_call(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return;
  place_ = Place::kContent;
  show(text.substr(begin));
}

// True: that was all. A <tool_call> that reasoning only speaks of does not hide its end; any other
// mark is a word of the arguments.
bool MarkedOutput::on_mark_in_body(Mark mark) {
  if (mark == Mark::kEndThink && before_body_ == Place::kReasoning) {
    end_body(/*whole=*/false);
    return false;
  }
  if (mark != Mark::kCallBegin && mark != Mark::kCallEnd) {
    header_ += mark == Mark::kThink ? kThink : kEndThink;
    return true;
  }
  end_body(/*whole=*/true);
  return mark == Mark::kCallEnd;
}

// What cannot be read as a call is shown as it was written, where it was written; not `whole`: no
// end has come.
void MarkedOutput::end_body(bool whole) {
  const std::string body = std::exchange(header_, {});
  if (const auto call = whole ? parse_call_body(body, types_) : std::nullopt) {
    begin_arguments(fallback_id(call->name), call->name);
    add_arguments(call->arguments);
    end_arguments();
    return;
  }
  place_ = before_body_ == Place::kReasoning ? Place::kReasoning : Place::kContent;
  show(std::string(kCallBeginTag) + body + std::string(whole ? kCallEndTag : ""));
}

std::string MarkedOutput::fallback_id(std::string_view name) const {
  return parse_kimi_header(name, calls_before_ + static_cast<std::size_t>(n_calls)).id;
}

void OutputParser::State::begin_call(std::string id, std::string name) {
  events.push_back({.kind = OutputEvent::Kind::kToolBegin,
                    .text = {},
                    .tool_index = n_calls,
                    .tool_id = std::move(id),
                    .tool_name = std::move(name)});
  ++n_calls;
}

void OutputParser::State::end_call() {
  events.push_back({.kind = OutputEvent::Kind::kToolEnd, .text = {}, .tool_index = n_calls - 1});
}

OutputParser::OutputParser(std::unique_ptr<State> state) : state_(std::move(state)) {}
OutputParser::OutputParser(OutputParser&&) noexcept = default;
OutputParser& OutputParser::operator=(OutputParser&&) noexcept = default;
OutputParser::~OutputParser() = default;

std::vector<OutputEvent> OutputParser::push(TokenId id) {
  state_->push(id);
  return std::exchange(state_->events, {});
}

std::vector<OutputEvent> OutputParser::finish() {
  state_->finish();
  return std::exchange(state_->events, {});
}

int OutputParser::tool_calls() const { return state_->n_calls; }

}  // namespace conclave::text
