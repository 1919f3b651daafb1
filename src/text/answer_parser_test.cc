#include <gtest/gtest.h>

#include "text/test_checkpoint.h"

namespace conclave::text {
namespace {

using Kind = OutputEvent::Kind;

constexpr std::string_view kInReasoning = "<|im_middle|><think>";

class Answers : public testing::Test {
 protected:
  AnswerParser parser(std::string_view prompt = "") const {
    return {model_.output_parser(ids_of(model_, prompt)), {"END"}};
  }
  // Pushes the tokens of `text`; what is shown, neighbours of one kind joined: "content: hi".
  void push(AnswerParser& parser, std::string_view text) {
    for (const TokenId id : ids_of(model_, text)) add(parser.push(id));
  }
  void finish(AnswerParser& parser) { add(parser.finish()); }

  std::string shown_;

 private:
  void add(const std::vector<OutputEvent>& events) {
    for (const OutputEvent& event : events) {
      if (last_ != event.kind) shown_ += (shown_.empty() ? "" : "\n") + label(event.kind);
      shown_ += event.text + event.tool_name;
      last_ = event.kind;
    }
  }
  static std::string label(Kind kind) {
    switch (kind) {
      case Kind::kReasoning:
        return "reasoning: ";
      case Kind::kContent:
        return "content: ";
      case Kind::kToolBegin:
        return "begin: ";
      case Kind::kToolArguments:
        return "arguments: ";
      case Kind::kToolEnd:
        return "end";
    }
    return "?";
  }

  const TextModel model_ = loaded(ember());
  std::optional<Kind> last_;
};

TEST_F(Answers, NothingIsShownFromAStopStringOn) {
  AnswerParser answer = parser();
  push(answer, "Hello E");
  EXPECT_FALSE(answer.stopped());
  push(answer, "ND and");
  EXPECT_TRUE(answer.stopped());
  push(answer, " more<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}");
  finish(answer);
  EXPECT_EQ(shown_, "content: Hello ");
}

TEST_F(Answers, WhatOnlyBeganAStopStringIsShownAtTheEnd) {
  AnswerParser answer = parser();
  push(answer, "Hello E");
  EXPECT_EQ(shown_, "content: Hello ");
  EXPECT_EQ(answer.content_bytes(), 7u);
  finish(answer);
  EXPECT_EQ(shown_, "content: Hello E");
  EXPECT_FALSE(answer.stopped());
}

TEST_F(Answers, WhatOnlyBeganAStopStringIsShownBeforeACall) {
  AnswerParser answer = parser();
  push(answer, "Hello E<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{");
  EXPECT_EQ(shown_, "content: Hello E\nbegin: f\narguments: {");
  EXPECT_EQ(answer.tool_calls(), 1);
}

TEST_F(Answers, ReasoningAndArgumentsMayHoldStopStrings) {
  AnswerParser answer = parser(kInReasoning);
  push(answer, "the END");
  EXPECT_TRUE(answer.in_reasoning());
  push(answer, "</think>ok");
  EXPECT_FALSE(answer.in_reasoning());
  push(answer, "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": \"END\"}");
  push(answer, "<|tool_call_end|>");
  finish(answer);
  EXPECT_EQ(shown_, "reasoning: the END\ncontent: ok\nbegin: f\narguments: {\"a\": \"END\"}\nend");
  EXPECT_FALSE(answer.stopped());
  EXPECT_EQ(answer.content_bytes(), 2u);
}

}  // namespace
}  // namespace conclave::text
