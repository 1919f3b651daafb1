// The states behind OutputParser. They copy what it needs of the vocabulary's marks; the token
// bytes come from the vocabulary, which outlives them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/call_body.h"
#include "text/text.h"
#include "text/vocabulary.h"

namespace conclave::text {

// Tokens, or strings in their place, that steer the parser.
enum class Mark : unsigned char {
  kThink,         // <think>
  kEndThink,      // </think>
  kSectionBegin,  // <|tool_calls_section_begin|>
  kSectionEnd,
  kCallBegin,
  kHeaderEnd,  // <|tool_call_argument_begin|>, <｜tool▁sep｜>
  kCallEnd,
};
inline constexpr std::size_t kMarks = 7;

enum class CallForm : unsigned char {
  kNone,
  kKimi,
  kDeepSeek,
  kTagged,  // <tool_call>, a body, </tool_call>: Qwen, GLM
};

// Which marks a vocabulary has as single tokens.
struct MarkTable {
  CallForm form = CallForm::kNone;
  std::array<std::optional<TokenId>, kMarks> ids;

  std::optional<TokenId> id(Mark mark) const { return ids[static_cast<std::size_t>(mark)]; }
  std::optional<Mark> find(TokenId id) const;
};

// Chooses a family's marks by what the vocabulary has.
MarkTable find_marks(const Vocabulary& vocabulary);

// Whether an answer to `prompt` starts inside its reasoning: the prompt ends with <think>, white
// space after it allowed (DeepSeek-R1 adds a newline). Only the end counts: history may hold any
// number of tags.
bool starts_in_reasoning(const Vocabulary& vocabulary, const MarkTable& marks,
                         std::span<const TokenId> prompt);

struct OutputParser::State {
  virtual ~State() = default;
  virtual void push(TokenId id) = 0;
  virtual void finish() = 0;

  std::vector<OutputEvent> events;  // taken by the caller after each step
  int n_calls = 0;

 protected:
  void begin_call(std::string id, std::string name);
  void end_call();
};

// The families whose marks frame reasoning and calls within one text.
class MarkedOutput final : public OutputParser::State {
 public:
  MarkedOutput(const Vocabulary& vocabulary, MarkTable table, std::span<const TokenId> prompt,
               ToolTypes types);

  void push(TokenId id) override;
  void finish() override;

 private:
  enum class Place : unsigned char {
    kContent,
    kReasoning,
    kSection,  // between calls
    kHeader,   // id and name
    kFence,    // DeepSeek-V3: the lines between the separator and the arguments
    kArguments,
    kBody,  // a tagged call, read when it is whole
  };

  void on_mark(Mark mark);
  void on_mark_in_call(Mark mark);
  void on_text(std::string_view text);
  void drain(bool last);
  bool drain_start(bool last);
  std::span<const std::string> patterns() const;
  void show(std::string_view text);
  void add_arguments(std::string_view text);
  void end_header();
  void end_fence(bool last);
  void begin_arguments(std::string id, std::string name);
  void end_arguments();
  bool on_mark_in_body(Mark mark);
  void end_body(bool whole);
  void show_after_call(std::string_view text);
  std::string fallback_id(std::string_view name) const;

  const Vocabulary& vocabulary_;
  MarkTable marks_;
  ToolTypes types_;
  Place place_ = Place::kContent;
  Place before_body_ = Place::kContent;
  Utf8Stream utf8_;
  std::string pending_;     // text that may be the start of a mark written as text
  bool at_start_ = true;    // nothing but white space so far
  std::string header_;      // at most kHeaderBytesMax; of a body kBodyBytesMax
  std::string held_space_;  // the end of the arguments so far, shown only if more follows
  bool arguments_shown_ = false;
  bool fenced_ = false;
  std::size_t calls_before_ = 0;  // in the prompt
  std::vector<std::string> reasoning_patterns_;
  std::vector<std::string> content_patterns_;
  std::vector<std::string> section_patterns_;
};

}  // namespace conclave::text
