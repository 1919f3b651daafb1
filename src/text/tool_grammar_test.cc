#include <gtest/gtest.h>

#include "text/grammar_fixture.h"

namespace conclave::text {
namespace {

class ToolGrammar : public Grammar {
 protected:
  const Json tools_ = Json::parse(R"([
      {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object",
        "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": false}}},
      {"type": "function", "function": {"name": "a/b.c-d\"e"}}])");
};

constexpr std::string_view kWeather =
    "<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"city\": \"Paris\"}"
    "<|tool_call_end|>";

TEST_F(ToolGrammar, AWholeKimiCall) {
  auto matcher = compiled(*model_.tool_call_grammar(tools_, "get_weather", false));
  expect_follows(matcher, "<|tool_calls_section_begin|>" + std::string(kWeather));
  EXPECT_FALSE(allowed(matcher)[special(model_, "<|tool_call_begin|>").value]);
  expect_follows(matcher, "<|tool_calls_section_end|>");
  EXPECT_TRUE(matcher.finished());
  EXPECT_TRUE(allowed(matcher)[end_.value]);
}

TEST_F(ToolGrammar, SeveralCallsOfAnyTool) {
  auto matcher = compiled(*model_.tool_call_grammar(tools_, "", true));
  expect_follows(matcher,
                 "<|tool_calls_section_begin|>" + std::string(kWeather) +
                     "<|tool_call_begin|>functions.a/b.c-d\"e:1<|tool_call_argument_begin|>"
                     "{\"x\": 1}<|tool_call_end|><|tool_calls_section_end|>");
  EXPECT_TRUE(matcher.finished());
}

TEST_F(ToolGrammar, OnlyDeclaredToolsAndArguments) {
  auto matcher = compiled(*model_.tool_call_grammar(tools_, "", false));
  expect_follows(matcher, "<|tool_calls_section_begin|><|tool_call_begin|>functions.");
  EXPECT_FALSE(matcher.accept(ids_of(model_, "x")[0]));
  EXPECT_FALSE(model_.tool_call_grammar(tools_, "unknown", false));
  EXPECT_FALSE(model_.tool_call_grammar(Json::array(), "", false));
}

TEST(DeepSeekToolGrammar, BothForms) {
  const TestFolder folder;
  folder.write(
      "tokenizer.json",
      byte_level_tokenizer({"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
                            "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
                            "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"}));
  const Json tools = Json::parse(R"([{"type": "function", "function": {"name": "f"}}])");
  const auto follows = [&](std::string_view call) {
    const TextModel model = loaded(folder.path(), 300);
    auto matcher = model.grammar(*model.tool_call_grammar(tools, "", true));
    ASSERT_TRUE(matcher) << matcher.error().message;
    const std::string answer = "<｜tool▁calls▁begin｜>" + std::string(call) + "\n" +
                               std::string(call) + "<｜tool▁calls▁end｜>";
    for (const TokenId id : ids_of(model, answer)) {
      const auto accepted = matcher->accept(id);
      ASSERT_TRUE(accepted) << accepted.error().message << " in " << call;
    }
    EXPECT_TRUE(matcher->finished());
  };
  follows("<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>");
  folder.write("chat_template.jinja", "{{ '```json' }}");
  follows(
      "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>");
}

}  // namespace
}  // namespace conclave::text
