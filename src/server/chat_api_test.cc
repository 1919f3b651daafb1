#include "server/chat_api.h"

#include <gtest/gtest.h>

#include "server/json_reader.h"

namespace conclave::server {
namespace {

ChatDefaults defaults() {
  ChatDefaults out;
  out.vocab_size = 100;
  out.generation = Json{{"temperature", 0.6}, {"top_p", 0.95}, {"top_k", 40}};
  return out;
}

// A valid request with `fields` added.
Json body(const char* fields) {
  Json json = Json::parse(R"({"model": "m", "messages": [{"role": "user", "content": "hi"}]})");
  json.update(Json::parse(fields));
  return json;
}

GenerateRequest good(const char* fields) {
  auto request = parse_chat_request(body(fields), defaults());
  EXPECT_TRUE(request) << fields;
  if (!request) ADD_FAILURE() << request.error().message;
  return request ? request.value() : GenerateRequest{};
}

ApiError bad(const char* fields) {
  auto request = parse_chat_request(body(fields), defaults());
  EXPECT_FALSE(request) << fields;
  return request ? ApiError{} : request.error();
}

constexpr const char* kTool =
    R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {}}},
                 {"type": "web_search"}])";

std::string with_tool(const char* rest) {
  return std::string("{") + kTool + (*rest == '\0' ? "" : ", ") + rest + "}";
}

TEST(ChatApi, TakesTheModelsOwnDefaults) {
  const GenerateRequest request = good("{}");
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.6f);
  EXPECT_FLOAT_EQ(request.sampling.top_p, 0.95f);
  EXPECT_EQ(request.sampling.top_k, 40);
  EXPECT_EQ(request.sampling.top_logprobs, -1);
  EXPECT_EQ(request.n, 1u);
  EXPECT_FALSE(request.max_tokens.has_value());
  EXPECT_FALSE(request.seed.has_value());
  EXPECT_FALSE(request.stream);
  EXPECT_TRUE(request.prompt.tools.is_null());
}

TEST(ChatApi, ReadsEveryField) {
  const GenerateRequest request = good(
      R"({"temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "repeat_penalty": 1.2,
          "presence_penalty": 0.5, "frequency_penalty": -0.5, "seed": -1, "n": 3,
          "max_completion_tokens": 7, "max_tokens": 9, "stop": ["a", "b"], "stream": true,
          "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 5,
          "logit_bias": {"7": -100, "99": 1.5}, "ignore_eos": true, "unknown": [1, {"x": 2}]})");
  EXPECT_EQ(request.sampling.temperature, 0.0f);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_FLOAT_EQ(request.sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ(request.sampling.repetition_penalty, 1.2f);
  EXPECT_FLOAT_EQ(request.sampling.presence_penalty, 0.5f);
  EXPECT_FLOAT_EQ(request.sampling.frequency_penalty, -0.5f);
  EXPECT_EQ(request.seed, std::optional(~std::uint64_t{0}));
  EXPECT_EQ(request.n, 3u);
  EXPECT_EQ(request.max_tokens, std::optional<std::size_t>(7));
  EXPECT_EQ(request.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(request.stream && request.include_usage && request.ignore_eos);
  EXPECT_EQ(request.sampling.top_logprobs, 5);
  ASSERT_EQ(request.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(request.sampling.logit_bias[0].first, TokenId{7});
}

TEST(ChatApi, NullIsAbsentAndMinusOneIsNoLimit) {
  const GenerateRequest request = good(
      R"({"max_tokens": -1, "stop": null, "temperature": null, "tools": null, "seed": null,
          "stream_options": null, "tool_choice": null, "response_format": null})");
  EXPECT_FALSE(request.max_tokens.has_value());
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.6f);
  EXPECT_EQ(good(R"({"max_tokens": 10.0})").max_tokens, std::optional<std::size_t>(10));
  EXPECT_EQ(good(R"({"stop": "x"})").stop, std::vector<std::string>{"x"});
}

TEST(ChatApi, ErrorsNameTheFieldAndWhatWasFound) {
  const std::pair<const char*, const char*> kCases[] = {
      {R"({"temperature": "hot"})", "temperature"},
      {R"({"temperature": 2.5})", "temperature"},
      {R"({"top_p": -0.1})", "top_p"},
      {R"({"n": 0})", "n"},
      {R"({"n": 17})", "n"},
      {R"({"max_tokens": 0})", "max_tokens"},
      {R"({"max_tokens": 1.5})", "max_tokens"},
      {R"({"stream": 1})", "stream"},
      {R"({"stop": [""]})", "stop"},
      {R"({"stop": 5})", "stop"},
      {R"({"top_logprobs": 3})", "top_logprobs"},
      {R"({"logprobs": true, "top_logprobs": 21})", "top_logprobs"},
      {R"({"logit_bias": {"100": 1}})", "logit_bias"},
      {R"({"logit_bias": {"x": 1}})", "logit_bias"},
      {R"({"logit_bias": {"1": 101}})", "logit_bias"},
      {R"({"seed": "s"})", "seed"},
      {R"({"model": 4})", "model"},
      {R"({"messages": []})", "messages"},
      {R"({"messages": "hi"})", "messages"},
      {R"({"messages": [{"role": "robot", "content": ""}]})", "messages[0].role"},
      {R"({"messages": [{"role": "user", "content": 5}]})", "messages[0].content"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
       "messages[0].content[0].type"},
      {R"({"messages": [{"role": "user"}]})", "messages[0].content"},
      {R"({"messages": [{"role": "tool", "content": null}]})", "messages[0].content"},
      {R"({"messages": [{"role": "assistant", "tool_calls": {}}]})", "messages[0].tool_calls"},
      {R"({"messages": [{"role": "assistant", "tool_calls": ["f"]}]})",
       "messages[0].tool_calls[0]"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]})",
       "messages[0].tool_calls[0].function.name"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"function": "f"}]}]})",
       "messages[0].tool_calls[0].function"},
      {R"({"guided_regex": ""})", "guided_regex"},
      {R"({"guided_json": "{}"})", "guided_json"},
      {R"({"structured_outputs": {"choice": ["a"]}})", "structured_outputs"},
      {R"({"structured_outputs": {"regex": 1}})", "structured_outputs.regex"},
      {R"({"guided_regex": "a", "guided_json": {}})", "guided_json"},
      {R"({"guided_regex": "a", "response_format": {"type": "json_object"}})", "guided_regex"},
      {R"({"tools": [{"type": "function"}]})", "tools[0].function.name"},
      {R"({"tools": [{"type": "function", "function": {"neam": "f"}}],
           "tool_choice": {"type": "function", "function": {"name": "f"}}})",
       "tools[0].function.name"},
      {R"({"tool_choice": "required"})", "tool_choice"},
      {R"({"tool_choice": "always"})", "tool_choice"},
      {R"({"response_format": {"type": "xml"}})", "response_format.type"},
      {R"({"response_format": {"type": "json_schema"}})", "response_format.json_schema.schema"},
      {R"({"stream_options": {"include_usage": "yes"}})", "stream_options.include_usage"},
  };
  for (const auto& [fields, param] : kCases) {
    const ApiError error = bad(fields);
    EXPECT_EQ(error.param, param) << error.message;
    EXPECT_EQ(error.status, 400);
    EXPECT_EQ(error.message.find(param), 0u) << error.message;
  }
  EXPECT_NE(bad(R"({"temperature": "hot"})").message.find("\"hot\""), std::string::npos);
}

TEST(ChatApi, ToolChoices) {
  const GenerateRequest automatic = good(with_tool("").c_str());
  EXPECT_EQ(automatic.prompt.tools.size(), 1u) << "tools of other types are skipped";
  EXPECT_FALSE(automatic.tool_required);
  EXPECT_TRUE(good(with_tool(R"("tool_choice": "none")").c_str()).prompt.tools.is_null());
  const GenerateRequest required =
      good(with_tool(R"("tool_choice": "required", "parallel_tool_calls": false)").c_str());
  EXPECT_TRUE(required.tool_required);
  EXPECT_TRUE(required.tool_name.empty());
  EXPECT_FALSE(required.parallel_tool_calls);
  const GenerateRequest named =
      good(with_tool(R"("tool_choice": {"type": "function", "function": {"name": "f"}})").c_str());
  EXPECT_TRUE(named.tool_required);
  EXPECT_EQ(named.tool_name, "f");
  EXPECT_EQ(
      bad(with_tool(R"("tool_choice": {"type": "function", "function": {"name": "g"}})").c_str())
          .param,
      "tool_choice.function.name");
}

TEST(ChatApi, ResponseFormats) {
  using Kind = text::GrammarSpec::Kind;
  EXPECT_FALSE(good(R"({"response_format": {"type": "text"}})").format.has_value());
  EXPECT_EQ(good(R"({"response_format": {"type": "json_object"}})").format->kind,
            Kind::kJsonObject);
  const GenerateRequest schema = good(
      R"({"response_format": {"type": "json_schema", "json_schema":
          {"name": "n", "strict": true, "schema": {"b": 1, "a": 2}}}})");
  EXPECT_EQ(schema.format->kind, Kind::kJsonSchema);
  EXPECT_EQ(schema.format->source, R"({"b":1,"a":2})") << "the order of keys is the client's";
  EXPECT_EQ(
      good(R"({"response_format": {"type": "json_object", "schema": {"a": 1}}})").format->kind,
      Kind::kJsonSchema);
}

TEST(ChatApi, GuidedOutput) {
  using Kind = text::GrammarSpec::Kind;
  for (const char* fields : {R"({"guided_regex": "a+", "response_format": {"type": "text"}})",
                             R"({"structured_outputs": {"regex": "a+"}})"}) {
    const GenerateRequest request = good(fields);
    ASSERT_TRUE(request.format.has_value());
    EXPECT_EQ(request.format->kind, Kind::kRegex);
    EXPECT_EQ(request.format->source, "a+");
  }
  const GenerateRequest schema = good(R"({"guided_json": {"type": "object"}})");
  ASSERT_TRUE(schema.format.has_value());
  EXPECT_EQ(schema.format->kind, Kind::kJsonSchema);
  EXPECT_EQ(schema.format->source, R"({"type":"object"})");
}

TEST(ChatApi, AnAssistantMayHaveNoContent) {
  good(R"({"messages": [{"role": "user", "content": "hi"},
                        {"role": "assistant", "content": null,
                         "tool_calls": [{"id": "a", "function": {"name": "f"}}]}]})");
}

TEST(ChatApi, ReasoningEffortReachesTheTemplate) {
  const GenerateRequest off = good(R"({"reasoning_effort": "none"})");
  EXPECT_EQ(off.prompt.template_kwargs["thinking"], false);
  const GenerateRequest high = good(R"({"reasoning_effort": "high",
                                        "chat_template_kwargs": {"thinking": true}})");
  EXPECT_EQ(high.prompt.template_kwargs["thinking"], true);
  EXPECT_EQ(high.prompt.template_kwargs["reasoning_effort"], "high");
}

TEST(ParseJson, RefusesWhatIsTooDeepOrNoObject) {
  EXPECT_FALSE(parse_json("[1]"));
  EXPECT_FALSE(parse_json("{"));
  EXPECT_FALSE(parse_json(""));
  EXPECT_FALSE(parse_json("{\"a\": \"\xff\"}"));
  EXPECT_TRUE(parse_json(R"({"a": "[[[\"{"})"));
  const std::string deep = "{\"a\":" + std::string(200, '[') + std::string(200, ']') + "}";
  auto parsed = parse_json(deep);
  ASSERT_FALSE(parsed);
  EXPECT_NE(parsed.error().message.find("201 levels"), std::string::npos);
  std::string many = "{\"a\":[0";
  for (std::size_t i = 0; i < kJsonValuesMax; ++i) many += ",0";
  EXPECT_FALSE(parse_json(many + "]}"));
}

}  // namespace
}  // namespace conclave::server
