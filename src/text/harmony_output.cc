#include "text/harmony_output.h"

#include <algorithm>
#include <utility>

#include "text/call_header.h"

namespace conclave::text {
namespace {

constexpr std::size_t kHeaderBytesMax = 1024;  // text beyond it is dropped
constexpr std::string_view kFunctions = "functions.";

// What follows "to=" up to white space.
std::string_view recipient_of(std::string_view header) {
  constexpr std::string_view kTo = "to=";
  const std::size_t at = header.find(kTo);
  if (at == header.npos) return {};
  header.remove_prefix(at + kTo.size());
  return header.substr(0, header.find_first_of(" \t\r\n"));
}

}  // namespace

std::optional<HarmonyMarks> find_harmony_marks(const Vocabulary& vocabulary) {
  const auto start = vocabulary.special("<|start|>");
  const auto channel = vocabulary.special("<|channel|>");
  const auto message = vocabulary.special("<|message|>");
  const auto constrain = vocabulary.special("<|constrain|>");
  const auto end = vocabulary.special("<|end|>");
  const auto ret = vocabulary.special("<|return|>");
  const auto call = vocabulary.special("<|call|>");
  if (!start || !channel || !message || !constrain || !end || !ret || !call) return std::nullopt;
  return HarmonyMarks{*start, *channel, *message, *constrain, *end, *ret, *call};
}

// The prompt ends within a header, "<|start|>assistant", unless its last mark says otherwise.
HarmonyOutput::HarmonyOutput(const Vocabulary& vocabulary, const HarmonyMarks& marks,
                             std::span<const TokenId> prompt)
    : vocabulary_(vocabulary), marks_(marks) {
  for (std::size_t i = prompt.size(); i > 0; --i) {
    const TokenId id = prompt[i - 1];
    if (id == marks.message || id == marks.end || id == marks.ret || id == marks.call) return;
    if (id != marks.start) continue;
    place_ = Place::kHeader;
    return;
  }
}

void HarmonyOutput::push(TokenId id) {
  if (on_mark(id) || vocabulary_.hidden(id)) return;
  on_text(utf8_.push(vocabulary_.bytes(id)));
}

void HarmonyOutput::finish() {
  on_text(utf8_.finish());
  // A model that wrote no header wrote an answer.
  if (place_ == Place::kHeader && !any_message_ && !in_channel_ && !trimmed(role_).empty()) {
    events.push_back({.kind = OutputEvent::Kind::kContent, .text = std::exchange(role_, {})});
  }
  end_message();
}

bool HarmonyOutput::on_mark(TokenId id) {
  const HarmonyMarks& m = marks_;
  const bool ends = id == m.end || id == m.ret || id == m.call;
  if (!ends && id != m.start && id != m.channel && id != m.message && id != m.constrain) {
    return false;
  }
  on_text(utf8_.finish());
  if (ends || id == m.start) {
    end_message();
  } else if (place_ == Place::kHeader && id == m.channel) {
    in_channel_ = true;
  } else if (place_ == Place::kHeader && id == m.constrain) {
    (in_channel_ ? channel_ : role_) += ' ';
  } else if (place_ == Place::kHeader && id == m.message) {
    end_header();
  }
  return true;
}

void HarmonyOutput::on_text(const std::string& text) {
  if (text.empty()) return;
  switch (place_) {
    case Place::kHeader: {
      std::string& part = in_channel_ ? channel_ : role_;
      if (part.size() + text.size() <= kHeaderBytesMax) part += text;
      return;
    }
    case Place::kReasoning:
      events.push_back({.kind = OutputEvent::Kind::kReasoning, .text = text});
      return;
    case Place::kContent:
      events.push_back({.kind = OutputEvent::Kind::kContent, .text = text});
      return;
    case Place::kArguments:
      events.push_back(
          {.kind = OutputEvent::Kind::kToolArguments, .text = text, .tool_index = n_calls - 1});
      return;
  }
}

// The recipient may stand before or behind the channel.
void HarmonyOutput::end_header() {
  any_message_ = true;
  const std::string header = role_ + " " + channel_;
  const std::string_view to = recipient_of(header);
  if (to.starts_with(kFunctions)) {
    const std::string name(to.substr(kFunctions.size()));
    begin_call(std::string(to) + ":" + std::to_string(n_calls), name);
    place_ = Place::kArguments;
    return;
  }
  const std::string_view channel = trimmed(channel_);
  place_ = channel.starts_with("analysis") ? Place::kReasoning : Place::kContent;
}

void HarmonyOutput::end_message() {
  if (place_ == Place::kArguments) end_call();
  place_ = Place::kHeader;
  role_.clear();
  channel_.clear();
  in_channel_ = false;
}

}  // namespace conclave::text
