#include "text/call_body.h"

#include <gtest/gtest.h>

namespace conclave::text {
namespace {

const Json kTools = Json::parse(R"([{"type": "function", "function": {"name": "f", "parameters":
  {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}}}])");

std::string parsed(std::string_view body, const Json& tools = kTools) {
  const auto call = parse_call_body(body, ToolTypes(tools));
  return call ? call->name + " " + call->arguments : "none";
}

TEST(CallBody, AJsonObject) {
  EXPECT_EQ(parsed("\n{\"name\": \"f\", \"arguments\": {\"a\": [1, 2]}}\n"), "f {\"a\": [1, 2]}");
  EXPECT_EQ(parsed("{\"arguments\": {\"a\": \"}\"}, \"name\": \"f\"}"), "f {\"a\": \"}\"}");
  EXPECT_EQ(parsed("{\"name\": \"f\"}"), "f {}");
  EXPECT_EQ(parsed("{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}"), "f {\"a\": 1}");
  for (const char* bad :
       {"{", "{}", "{\"name\": 3}", "{\"name\": \"f\", \"arguments\": {}", "{\"name\": \"f\"} x"}) {
    EXPECT_EQ(parsed(bad), "none") << bad;
  }
}

TEST(CallBody, TaggedParametersHaveTheTypesOfTheSchema) {
  EXPECT_EQ(parsed("<function=f>\n<parameter=s>\n12\n</parameter>\n<parameter=n>\n12\n</parameter>"
                   "\n</function>"),
            "f {\"s\": \"12\", \"n\": 12}");
  EXPECT_EQ(parsed("<function=f>\n<parameter=s>\n\n a\nb \n</parameter></function>"),
            "f {\"s\": \"\\n a\\nb \"}");
  EXPECT_EQ(parsed("<function=f></function>"), "f {}");
  EXPECT_EQ(parsed("<function=f"), "none");
  EXPECT_EQ(parsed("<function=f><parameter=s</parameter>"), "f {\"s</parameter\": \"\"}");
  EXPECT_EQ(parsed("<function=f><parameter=s"), "none");
  EXPECT_EQ(parsed("<function=f><parameter=s>a<parameter=n>2</function>"),  // ends forgotten
            "f {\"s\": \"a\", \"n\": 2}");
}

TEST(CallBody, KeysAndValues) {
  const char* body =
      "f\n<arg_key>s</arg_key>\n<arg_value>true</arg_value>\n"
      "<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n";
  EXPECT_EQ(parsed(body), "f {\"s\": \"true\", \"n\": 3}");
  EXPECT_EQ(parsed(body, nullptr), "f {\"s\": true, \"n\": 3}");
  EXPECT_EQ(parsed("g<arg_key>x</arg_key><arg_value>two words</arg_value>"),
            "g {\"x\": \"two words\"}");
  EXPECT_EQ(parsed("f"), "f {}");
  EXPECT_EQ(parsed("f<arg_key>s</arg_key>"), "f {}");
  EXPECT_EQ(parsed("g"), "none") << "no tool of that name";
  EXPECT_EQ(parsed("f\nand more"), "none");
  EXPECT_EQ(parsed("```json\n{\"name\": \"f\"}\n```"), "none");
  EXPECT_EQ(parsed("some text"), "none");
  EXPECT_EQ(parsed(""), "none");
}

TEST(CallBody, TextMayBeOneOfSeveralTypes) {
  const Json tools = Json::parse(R"([{"function": {"name": "f", "parameters": {"properties": {
      "a": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "b": {"type": ["string", "null"]},
      "c": {"enum": ["1", "2"]}, "d": {"anyOf": [{"type": "integer"}]}}}}}])");
  for (const auto& [key, value] : std::vector<std::pair<std::string, std::string>>{
           {"a", "\"1\""}, {"b", "\"1\""}, {"c", "\"1\""}, {"d", "1"}}) {
    EXPECT_EQ(parsed("f<arg_key>" + key + "</arg_key><arg_value>1</arg_value>", tools),
              "f {\"" + key + "\": " + value + "}");
  }
  EXPECT_EQ(parsed("f<arg_key>a</arg_key><arg_value>null</arg_value>", tools), "f {\"a\": null}");
}

TEST(CallBody, DeepValuesStayText) {
  const std::string deep(200, '[');
  const std::string close(200, ']');
  EXPECT_EQ(parsed("f<arg_key>n</arg_key><arg_value>" + deep + close + "</arg_value>"),
            "f {\"n\": \"" + deep + close + "\"}");
  EXPECT_EQ(parsed("{\"name\": \"f\", \"arguments\": " + deep + close + "}"), "none");
}

}  // namespace
}  // namespace conclave::text
