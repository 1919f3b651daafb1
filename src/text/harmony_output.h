// Answers of gpt-oss: messages, each with a header that names its channel. docs/models.md 7.6.
//
//   <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
//   <|start|>assistant<|channel|>commentary to=functions.f
//   <|constrain|>json<|message|>{...}<|call|>
#pragma once

#include <optional>
#include <span>
#include <string>

#include "text/output_state.h"
#include "text/vocabulary.h"

namespace conclave::text {

struct HarmonyMarks {
  TokenId start, channel, message, constrain, end, ret, call;
};
// nullopt: the vocabulary is another family's.
std::optional<HarmonyMarks> find_harmony_marks(const Vocabulary& vocabulary);

class HarmonyOutput final : public OutputParser::State {
 public:
  // Not `offers_tools`: nobody could run a call, so that one is content.
  HarmonyOutput(const Vocabulary& vocabulary, const HarmonyMarks& marks,
                std::span<const TokenId> prompt, bool offers_tools);

  void push(TokenId id) override;
  void finish() override;

 private:
  enum class Place : unsigned char { kHeader, kReasoning, kContent, kArguments };

  void begin(std::span<const TokenId> prompt);
  void on_text(const std::string& text);
  void show(OutputEvent::Kind kind, const std::string& text);
  bool on_mark(TokenId id);
  void end_header();
  void end_message();

  const Vocabulary& vocabulary_;
  HarmonyMarks marks_;
  Place place_ = Place::kContent;
  Utf8Stream utf8_;
  std::string role_;     // header text before the channel; at most kHeaderBytesMax
  std::string channel_;  // and after it
  bool in_channel_ = false;
  bool any_mark_ = false;
  bool offers_tools_;
  bool any_content_ = false;
  bool new_content_ = false;  // a message of content has begun and shown nothing yet
  bool any_arguments_ = false;
  std::size_t calls_before_ = 0;  // in the prompt
};

}  // namespace conclave::text
