#include <gtest/gtest.h>

#include "text/test_checkpoint.h"

namespace conclave::text {
namespace {

using Kind = OutputEvent::Kind;

// Events of a whole answer, one line each, neighbours of one kind joined: "content: hi".
std::string run(const TextModel& model, std::span<const TokenId> prompt,
                std::span<const TokenId> answer) {
  OutputParser parser = model.output_parser(prompt);
  std::string out;
  std::string last;
  const auto add = [&](const std::vector<OutputEvent>& events) {
    for (const OutputEvent& event : events) {
      std::string label;
      if (event.kind == Kind::kReasoning) label = "reasoning: ";
      if (event.kind == Kind::kContent) label = "content: ";
      if (event.kind == Kind::kToolArguments) {
        label = "args" + std::to_string(event.tool_index) + ": ";
      }
      if (event.kind == Kind::kToolBegin) {
        label = "begin" + std::to_string(event.tool_index) + ": " + event.tool_id + " " +
                event.tool_name;
      }
      if (event.kind == Kind::kToolEnd) label = "end" + std::to_string(event.tool_index);
      const bool goes_on = label == last && label.ends_with(": ");
      out += goes_on ? event.text : (out.empty() ? "" : "\n") + label + event.text;
      last = label;
    }
  };
  for (const TokenId id : answer) add(parser.push(id));
  add(parser.finish());
  return out;
}

std::string run(const TextModel& model, std::string_view prompt, std::string_view answer) {
  return run(model, ids_of(model, prompt), ids_of(model, answer));
}

class KimiOutput : public testing::Test {
 protected:
  std::string answer(std::string_view text, std::string_view prompt = "") {
    return run(model_, prompt, text);
  }
  const TextModel model_ = loaded(ember());
};

constexpr std::string_view kCall =
    "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|>";

TEST_F(KimiOutput, ContentAndReasoning) {
  EXPECT_EQ(answer("hello"), "content: hello");
  EXPECT_EQ(answer("hmm</think>hello<|im_end|>", "<|im_middle|><think>"),
            "reasoning: hmm\ncontent: hello");
  EXPECT_EQ(answer("hello", "<think></think>"), "content: hello");
  EXPECT_EQ(answer(" \n<think>hmm</think>hello", "old</think>"), "reasoning: hmm\ncontent: hello");
  EXPECT_EQ(answer("hmm</think>ok", "<think>\n"), "reasoning: hmm\ncontent: ok");
}

TEST_F(KimiOutput, OneCallAndTwo) {
  const std::string section =
      "<|tool_calls_section_begin|>" + std::string(kCall) + "<|tool_calls_section_end|>";
  EXPECT_EQ(answer("Let me look." + section),
            "content: Let me look.\nbegin0: functions.f:0 f\nargs0: {\"a\": 1}\nend0");
  EXPECT_EQ(answer("<|tool_calls_section_begin|> " + std::string(kCall) + "\n" +
                   std::string(kCall) + " <|tool_calls_section_end|>after"),
            "begin0: functions.f:0 f\nargs0: {\"a\": 1}\nend0\n"
            "begin1: functions.f:0 f\nargs1: {\"a\": 1}\nend1\ncontent: after");
}

TEST_F(KimiOutput, ForgottenMarks) {
  const std::string call(kCall);
  const std::string expected = "begin0: functions.f:0 f\nargs0: {\"a\": 1}\nend0";
  // No </think>.
  EXPECT_EQ(answer("hmm<|tool_calls_section_begin|>" + call, "<think>"),
            "reasoning: hmm\n" + expected);
  // No section.
  EXPECT_EQ(answer(call), expected);
  EXPECT_EQ(answer("hmm" + call, "<think>"), "reasoning: hmm\n" + expected);
  // The singular form, which is text.
  EXPECT_EQ(answer("x<|tool_call_section_begin|>" + call + "<|tool_call_section_end|>y"),
            "content: x\n" + expected + "\ncontent: y");
  // No begin of the call.
  EXPECT_EQ(answer("<|tool_calls_section_begin|>" + call.substr(19)), expected);
  // No end of the call.
  EXPECT_EQ(answer(call.substr(0, call.size() - 17) + "<|tool_calls_section_end|>"), expected);
}

TEST_F(KimiOutput, HeadersAndArguments) {
  EXPECT_EQ(answer("<|tool_call_begin|>\nfunctions.f:0\n<|tool_call_argument_begin|>\n {} \n"
                   "<|tool_call_end|>"),
            "begin0: functions.f:0 f\nargs0: {}\nend0");
  EXPECT_EQ(answer("<|tool_call_begin|>f<|tool_call_argument_begin|>{}<|tool_call_end|>",
                   "<|tool_call_begin|><|tool_call_begin|>"),
            "begin0: functions.f:2 f\nargs0: {}\nend0");
  EXPECT_EQ(answer("<|tool_call_begin|>functions.f:0<|tool_call_end|>"),
            "begin0: functions.f:0 f\nargs0: {}\nend0");
}

TEST_F(KimiOutput, EndedByLength) {
  EXPECT_EQ(answer("<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": "),
            "begin0: functions.f:0 f\nargs0: {\"a\":\nend0");
  EXPECT_EQ(answer("text <|tool_call_begin|>functions.f"), "content: text ");
  EXPECT_EQ(answer("x<|tool_call_sect"), "content: x<|tool_call_sect");
}

TEST_F(KimiOutput, ToolEventsArriveAsTheyBecomeCertain) {
  OutputParser parser = model_.output_parser({});
  EXPECT_TRUE(parser.push(special(model_, "<|tool_call_begin|>")).empty());
  for (const TokenId id : ids_of(model_, "functions.f:0")) EXPECT_TRUE(parser.push(id).empty());
  const auto events = parser.push(special(model_, "<|tool_call_argument_begin|>"));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0],
            (OutputEvent{.kind = Kind::kToolBegin, .tool_id = "functions.f:0", .tool_name = "f"}));
  EXPECT_EQ(parser.tool_calls(), 1);
}

TEST_F(KimiOutput, NeverSplitsACodePoint) {
  OutputParser parser = model_.output_parser({});
  std::string text;
  for (const char byte : std::string("x龘😀")) {
    TokenId id{};
    for (std::uint32_t i = 0; i < kEmberVocab; ++i) {
      if (model_.token_bytes(TokenId{i}) == std::string_view(&byte, 1)) id = TokenId{i};
    }
    for (const OutputEvent& event : parser.push(id)) {
      EXPECT_NE(static_cast<unsigned char>(event.text.back()) & 0xC0, 0xC0) << event.text;
      text += event.text;
    }
  }
  EXPECT_EQ(text, "x龘😀");
}

TEST(OutputParser, ThinkTagsSpelledInLetters) {
  // K2-Thinking's vocabulary may lack the tags.
  const TestFolder folder;
  folder.copy_from_ember("tiktoken.model");
  std::string config = file_text(ember() / "tokenizer_config.json");
  for (const std::string_view tag : {"\"<think>\"", "\"</think>\""}) {
    config.replace(config.find(tag), tag.size(), tag == "\"<think>\"" ? "\"<r1>\"" : "\"<r2>\"");
  }
  folder.write("tokenizer_config.json", config);
  const TextModel model = loaded(folder.path());
  ASSERT_FALSE(model.special("<think>"));
  EXPECT_EQ(run(model, "", "<think>hmm</think>hello <think>"),
            "reasoning: hmm\ncontent: hello <think>");
  EXPECT_EQ(run(model, "<|im_middle|><think>", "hmm</think>hello"),
            "reasoning: hmm\ncontent: hello");
  EXPECT_EQ(run(model, "", "<thin"), "content: <thin");
}

class DeepSeekOutput : public testing::Test {
 protected:
  DeepSeekOutput() {
    folder_.write(
        "tokenizer.json",
        byte_level_tokenizer({"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<think>",
                              "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
                              "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"}));
  }
  const TestFolder folder_;
};

TEST_F(DeepSeekOutput, FencedAndPlainCalls) {
  const TextModel model = loaded(folder_.path(), 300);
  EXPECT_EQ(run(model, "<think>\n", "hmm</think>ok<｜end▁of▁sentence｜>"),
            "reasoning: hmm\ncontent: ok");
  const std::string fenced =
      "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": "
      "\"`\"}\n```<｜tool▁call▁end｜>";
  EXPECT_EQ(
      run(model, "", "<｜tool▁calls▁begin｜>" + fenced + "\n" + fenced + "<｜tool▁calls▁end｜>"),
      "begin0: functions.f:0 f\nargs0: {\"a\": \"`\"}\nend0\n"
      "begin1: functions.f:1 f\nargs1: {\"a\": \"`\"}\nend1");
  EXPECT_EQ(run(model, "", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>"),
            "begin0: functions.f:0 f\nargs0: {\"a\": 1}\nend0");
  EXPECT_EQ(
      run(model, "", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>"),
      "begin0: functions.function:0 function\nargs0: {\"a\": 1}\nend0");
  EXPECT_EQ(run(model, "", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\""),
            "begin0: functions.f:0 f\nargs0: {\"a\"\nend0");
}

class TaggedOutput : public testing::Test {
 protected:
  TaggedOutput() {
    folder_.write("tokenizer.json",
                  byte_level_tokenizer({"<|im_start|>", "<|im_end|>", "<think>", "</think>",
                                        "<tool_call>", "</tool_call>"}));
  }
  const TestFolder folder_;
};

TEST_F(TaggedOutput, CallsBetweenTags) {
  const TextModel model = loaded(folder_.path(), 300);
  const std::string call =
      "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";
  EXPECT_EQ(run(model, "<think>\n", "hmm</think>\n\nok\n" + call + "\n" + call + "<|im_end|>"),
            "reasoning: hmm\ncontent: \n\nok\n\n"
            "begin0: functions.f:0 f\nargs0: {\"a\": 1}\nend0\n"
            "begin1: functions.f:1 f\nargs1: {\"a\": 1}\nend1");
  EXPECT_EQ(run(model, "", call + "\n after"),
            "begin0: functions.f:0 f\nargs0: {\"a\": 1}\nend0\ncontent: after");
  EXPECT_EQ(run(model, "", call.substr(0, call.size() - 12) + call),  // no end of the first
            "begin0: functions.f:0 f\nargs0: {\"a\": 1}\nend0\n"
            "begin1: functions.f:1 f\nargs1: {\"a\": 1}\nend1");
}

TEST_F(TaggedOutput, WhatIsNoCallIsContent) {
  const TextModel model = loaded(folder_.path(), 300);
  EXPECT_EQ(run(model, "", "x<tool_call>{\"name\"</tool_call>y"),
            "content: x<tool_call>{\"name\"</tool_call>y");
  EXPECT_EQ(run(model, "", "<tool_call>{\"name\": \"f\"}"),
            "content: <tool_call>{\"name\": \"f\"}");
  EXPECT_EQ(run(model, "", "x</tool_call>y"), "content: xy");
  const std::string large((1 << 20) + 5, 'a');
  EXPECT_EQ(run(model, "", "<tool_call>" + large + "</tool_call>"), "content: <tool_call>" + large);
}

TEST_F(TaggedOutput, ReasoningMaySpeakOfTags) {
  const TextModel model = loaded(folder_.path(), 300);
  EXPECT_EQ(run(model, "<think>", "use <tool_call> here</think>4"),
            "reasoning: use <tool_call> here\ncontent: 4");
  EXPECT_EQ(run(model, "<think>", "<tool_call>x y</tool_call> more</think>4"),
            "reasoning: <tool_call>x y</tool_call> more\ncontent: 4");
  EXPECT_EQ(run(model, "",
                "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"<think></think>\"}}"
                "</tool_call>"),
            "begin0: functions.f:0 f\nargs0: {\"a\": \"<think></think>\"}\nend0");
  EXPECT_EQ(run(model, "", "<tool_call>{\"name\": \"f\"}</tool_call><think>hm</think>ok"),
            "begin0: functions.f:0 f\nargs0: {}\nend0\nreasoning: hm\ncontent: ok");
}

TEST_F(TaggedOutput, SchemasGiveTypes) {
  const TextModel model = loaded(folder_.path(), 300);
  const Json tools = Json::parse(R"([{"type": "function", "function": {"name": "f", "parameters":
      {"type": "object", "properties": {"s": {"type": "string"}}}}}])");
  OutputParser parser = model.output_parser({}, tools);
  std::string arguments;
  for (const TokenId id :
       ids_of(model, "<tool_call>f<arg_key>s</arg_key><arg_value>1</arg_value></tool_call>")) {
    for (const OutputEvent& event : parser.push(id)) arguments += event.text;
  }
  EXPECT_EQ(arguments, "{\"s\": \"1\"}");
}

}  // namespace
}  // namespace conclave::text
