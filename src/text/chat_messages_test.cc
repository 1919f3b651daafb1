#include "text/chat_messages.h"

#include <gtest/gtest.h>

namespace conclave::text {
namespace {

Json prepared(std::string_view messages, const MessageStyle& style = {}) {
  auto result = prepare_messages(Json::parse(messages), style);
  EXPECT_TRUE(result) << (result ? "" : result.error().message);
  return result ? *result : Json();
}

std::string error_of(std::string_view messages) {
  const auto result = prepare_messages(Json::parse(messages), {});
  EXPECT_FALSE(result);
  return result ? "" : result.error().message;
}

TEST(ChatMessages, OneFormForManySpellings) {
  EXPECT_EQ(prepared(R"([{"role": "developer", "content": [{"type": "text", "text": "a"},
                                                           {"type": "text", "text": "b"}]},
                         {"role": "function", "name": "f", "content": null},
                         {"role": "assistant", "content": null, "reasoning": "r"}])"),
            Json::parse(R"([{"role": "system", "content": "ab"},
                            {"role": "tool", "name": "f", "content": ""},
                            {"role": "assistant", "content": null, "reasoning": "r",
                             "reasoning_content": "r"}])"));
}

TEST(ChatMessages, ReasoningInsideTheContentMovesOut) {
  const std::string_view sent =
      R"([{"role": "assistant", "content": "<think>because</think>\n\nyes"},
          {"role": "user", "content": "<think>mine</think>"}])";
  const Json out = prepared(sent, {.think_tokens = true});
  EXPECT_EQ(out[0]["content"], "yes");
  EXPECT_EQ(out[0]["reasoning_content"], "because");
  EXPECT_EQ(out[1]["content"], "<think>mine</think>");
  EXPECT_EQ(prepared(sent)[0]["content"], "<think>because</think>\n\nyes");
}

TEST(ChatMessages, ArgumentsTakeTheFormTheTemplateReads) {
  const auto arguments = [](MessageStyle::Arguments wanted, std::string_view sent) {
    return prepared(R"([{"role": "assistant", "tool_calls": [{"id": "x", "function":
                        {"name": "f", "arguments": )" +
                        std::string(sent) + "}}]}]",
                    {.arguments = wanted})[0]["tool_calls"][0]["function"]["arguments"];
  };
  using Arguments = MessageStyle::Arguments;
  EXPECT_EQ(arguments(Arguments::kObject, R"("{\"a\": 1}")"), Json({{"a", 1}}));
  EXPECT_EQ(arguments(Arguments::kObject, R"("{broken")"), "{broken");
  EXPECT_EQ(arguments(Arguments::kString, R"({"a": [1, 2]})"), R"({"a": [1, 2]})");
  EXPECT_EQ(arguments(Arguments::kAsSent, R"("{}")"), "{}");
  EXPECT_EQ(message_style("call.arguments is string").arguments, Arguments::kAsSent);
  EXPECT_EQ(message_style("x.arguments | tojson").arguments, Arguments::kObject);
  EXPECT_EQ(message_style("{{ x.arguments }}").arguments, Arguments::kString);
}

TEST(ChatMessages, ForeignIdsBecomeNativeInOrder) {
  const Json out = prepared(R"([
      {"role": "assistant", "tool_calls": [{"id": "call_a", "function": {"name": "f"}},
                                           {"id": "functions.g:7", "function": {"name": "g"}}]},
      {"role": "tool", "tool_call_id": "functions.g:7", "content": ""},
      {"role": "tool", "tool_call_id": "call_a", "content": ""},
      {"role": "assistant", "tool_calls": [{"id": "call_a", "function": {"name": "g.h"}}]},
      {"role": "tool", "content": ""},
      {"role": "tool", "tool_call_id": "unknown", "content": ""}])",
                            {.kimi_tool_ids = true});
  EXPECT_EQ(out[0]["tool_calls"][0]["id"], "functions.f:0");
  EXPECT_EQ(out[0]["tool_calls"][1]["id"], "functions.g:7");
  EXPECT_EQ(out[1]["tool_call_id"], "functions.g:7");
  EXPECT_EQ(out[2]["tool_call_id"], "functions.f:0");
  EXPECT_EQ(out[3]["tool_calls"][0]["id"], "functions.g.h:2");
  EXPECT_EQ(out[4]["tool_call_id"], "functions.g.h:2");
  EXPECT_EQ(out[5]["tool_call_id"], "unknown");
}

TEST(ChatMessages, BadShapesAreNamed) {
  EXPECT_EQ(error_of("{}"), "messages: expected an array");
  EXPECT_EQ(error_of("[3]"), "messages[0]: expected an object");
  EXPECT_EQ(error_of(R"([{"role": 3}])"), "messages[0].role: expected a string");
  EXPECT_NE(error_of(R"([{"role": "assistant", "tool_calls": [{}]}])").find("function.name"),
            std::string::npos);
  std::string deep = R"([{"role": "user", "content": )";
  deep += std::string(5000, '[') + std::string(5000, ']') + "}]";
  EXPECT_NE(error_of(deep).find("nested deeper"), std::string::npos);
}

}  // namespace
}  // namespace conclave::text
