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
  HarmonyOutput(const Vocabulary& vocabulary, const HarmonyMarks& marks,
                std::span<const TokenId> prompt);

  void push(TokenId id) override;
  void finish() override;

 private:
  enum class Place : unsigned char { kHeader, kReasoning, kContent, kArguments };

  void on_text(const std::string& text);
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
  bool any_message_ = false;
};

}  // namespace conclave::text
