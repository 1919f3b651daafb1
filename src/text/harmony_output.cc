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

HarmonyOutput::HarmonyOutput(const Vocabulary& vocabulary, const HarmonyMarks& marks,
                             std::span<const TokenId> prompt, bool offers_tools)
    : vocabulary_(vocabulary), marks_(marks), offers_tools_(offers_tools) {
  calls_before_ = static_cast<std::size_t>(std::ranges::count(prompt, marks.call));
  begin(prompt);
}

// The prompt ends within a header, "<|start|>assistant", or within a message that one began.
void HarmonyOutput::begin(std::span<const TokenId> prompt) {
  constexpr std::size_t kTail = 64;  // of a header
  const auto is_mark = [this](TokenId id) {
    return id == marks_.start || id == marks_.message || id == marks_.end || id == marks_.ret ||
           id == marks_.call;
  };
  const std::span<const TokenId> tail = prompt.last(std::min(prompt.size(), kTail));
  const auto last = std::find_if(tail.rbegin(), tail.rend(), is_mark);
  if (last == tail.rend()) return;
  if (*last != marks_.start && *last != marks_.message) return;
  const auto start = std::find(last, tail.rend(), marks_.start);
  if (start == tail.rend()) return;
  place_ = Place::kHeader;
  for (auto it = start.base(); it != tail.end(); ++it) push(*it);
  any_mark_ = false;
  // What the prompt says of role and channel is not the answer's.
  if (place_ == Place::kHeader && !in_channel_) role_.clear();
}

void HarmonyOutput::push(TokenId id) {
  if (on_mark(id) || vocabulary_.hidden(id)) return;
  on_text(utf8_.push(vocabulary_.bytes(id)));
}

void HarmonyOutput::finish() {
  on_text(utf8_.finish());
  // A model that wrote no header wrote an answer.
  if (place_ == Place::kHeader && !any_mark_ && !trimmed(role_).empty()) {
    show(OutputEvent::Kind::kContent, std::exchange(role_, {}));
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
  any_mark_ = true;
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
      if (part.size() + text.size() <= kHeaderBytesMax) {
        part += text;
      } else if (!any_mark_) {  // no header is so long
        place_ = Place::kContent;
        show(OutputEvent::Kind::kContent, std::exchange(role_, {}) + text);
      }
      return;
    }
    case Place::kReasoning:
      return show(OutputEvent::Kind::kReasoning, text);
    case Place::kContent:
      return show(OutputEvent::Kind::kContent, text);
    case Place::kArguments:
      any_arguments_ = true;
      events.push_back(
          {.kind = OutputEvent::Kind::kToolArguments, .text = text, .tool_index = n_calls - 1});
      return;
  }
}

// Messages of content are paragraphs of one answer.
void HarmonyOutput::show(OutputEvent::Kind kind, const std::string& text) {
  const bool content = kind == OutputEvent::Kind::kContent;
  const bool apart = content && new_content_ && any_content_;
  events.push_back({.kind = kind, .text = (apart ? "\n\n" : "") + text});
  if (!content) return;
  any_content_ = true;
  new_content_ = false;
}

// The recipient may stand before or behind the channel.
void HarmonyOutput::end_header() {
  const std::string header = role_ + " " + channel_;
  const std::string_view to = recipient_of(header);
  if (to.starts_with(kFunctions) && offers_tools_) {
    const std::string name(to.substr(kFunctions.size()));
    const std::size_t number = calls_before_ + static_cast<std::size_t>(n_calls);
    begin_call(std::string(to) + ":" + std::to_string(number), name);
    place_ = Place::kArguments;
    any_arguments_ = false;
    return;
  }
  const std::string_view channel = trimmed(channel_);
  place_ = channel.starts_with("analysis") ? Place::kReasoning : Place::kContent;
  new_content_ = place_ == Place::kContent;
}

void HarmonyOutput::end_message() {
  if (place_ == Place::kArguments) {
    if (!any_arguments_) on_text("{}");
    end_call();
  }
  place_ = Place::kHeader;
  role_.clear();
  channel_.clear();
  in_channel_ = false;
}

}  // namespace conclave::text
