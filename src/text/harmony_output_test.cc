#include <gtest/gtest.h>

#include "text/test_checkpoint.h"

namespace conclave::text {
namespace {

class HarmonyOutputTest : public testing::Test {
 protected:
  HarmonyOutputTest() {
    const TestFolder folder;
    folder.write("tokenizer.json",
                 byte_level_tokenizer({"<|startoftext|>", "<|return|>", "<|start|>", "<|end|>",
                                       "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>"}));
    model_.emplace(loaded(folder.path(), 300));
  }

  // "kind: text" of each message, calls as "NAME(ARGUMENTS) ID".
  std::string answer(std::string_view text, std::string_view prompt = "<|start|>assistant") {
    OutputParser parser = model_->output_parser(ids_of(*model_, prompt), tools_);
    std::string out;
    OutputEvent::Kind last = OutputEvent::Kind::kToolEnd;
    const auto add = [&](const std::vector<OutputEvent>& events) {
      for (const OutputEvent& event : events) {
        if (event.kind == OutputEvent::Kind::kReasoning && last != event.kind) out += "[reasoning]";
        if (event.kind == OutputEvent::Kind::kContent && last != event.kind) out += "[content]";
        if (event.kind == OutputEvent::Kind::kToolBegin) {
          out += "[" + event.tool_id + " " + event.tool_name + "]";
        }
        if (event.kind == OutputEvent::Kind::kToolEnd) out += ".";
        out += event.text;
        last = event.kind;
      }
    };
    for (const TokenId id : ids_of(*model_, text)) add(parser.push(id));
    add(parser.finish());
    return out;
  }

  std::optional<TextModel> model_;
  Json tools_ = Json::parse(R"([{"type": "function", "function": {"name": "f"}}])");
};

TEST_F(HarmonyOutputTest, ChannelsSayWhatAMessageIs) {
  EXPECT_EQ(answer("<|channel|>analysis<|message|>hmm<|end|>"
                   "<|start|>assistant<|channel|>final<|message|>hello<|return|>"),
            "[reasoning]hmm[content]hello");
  EXPECT_EQ(answer("<|channel|>commentary<|message|>let me look<|end|>"), "[content]let me look");
  EXPECT_EQ(answer("<|channel|>analysis<|message|>hm"), "[reasoning]hm");
}

TEST_F(HarmonyOutputTest, CallsNameTheirRecipientBeforeOrBehindTheChannel) {
  EXPECT_EQ(answer("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}"
                   "<|call|>"),
            "[functions.f:0 f]{\"a\": 1}.");
  EXPECT_EQ(answer(" to=functions.f.g<|channel|>commentary json<|message|>{}<|call|>"),
            "[functions.f.g:0 f.g]{}.");
  EXPECT_EQ(answer("<|channel|>commentary to=functions.f<|message|>{\"a\":"),
            "[functions.f:0 f]{\"a\":.");
  EXPECT_EQ(answer("<|channel|>analysis<|message|>x<|end|><|start|>assistant to=functions.f"
                   "<|channel|>commentary<|message|>{}<|call|>"),
            "[reasoning]x[functions.f:0 f]{}.");
}

TEST_F(HarmonyOutputTest, CallsAreCountedThroughTheConversation) {
  EXPECT_EQ(answer("<|channel|>commentary to=functions.f<|message|>{}<|call|>",
                   "<|message|>{}<|call|><|start|>assistant"),
            "[functions.f:1 f]{}.");
  EXPECT_EQ(answer("<|channel|>commentary to=functions.f<|message|><|call|>"),
            "[functions.f:0 f]{}.");
  tools_ = nullptr;
  EXPECT_EQ(answer("<|channel|>commentary to=functions.f<|message|>{}<|call|>"), "[content]{}");
}

TEST_F(HarmonyOutputTest, MessagesOfContentAreParagraphs) {
  EXPECT_EQ(answer("<|channel|>commentary<|message|>a<|end|><|start|>assistant"
                   "<|channel|>final<|message|>b<|return|>"),
            "[content]a\n\nb");
}

TEST_F(HarmonyOutputTest, WhatHasNoHeaderIsContent) {
  EXPECT_EQ(answer("hello"), "[content]hello");
  EXPECT_EQ(answer("hello", ""), "[content]hello");
  EXPECT_EQ(answer("hello", "<|start|>assistant<|channel|>final<|message|>"), "[content]hello");
  EXPECT_EQ(answer("<|channel|>final"), "");
  const std::string large(5000, 'x');
  EXPECT_EQ(answer(large), "[content]" + large);
  EXPECT_EQ(answer("hm", "<|start|>assistant<|channel|>analysis<|message|>"), "[reasoning]hm");
  EXPECT_EQ(answer("<|channel|>" + large + "<|message|>ok"), "[content]ok");
}

}  // namespace
}  // namespace conclave::text
