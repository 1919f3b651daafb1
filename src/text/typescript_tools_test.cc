#include "text/typescript_tools.h"

#include <gtest/gtest.h>

namespace conclave::text {
namespace {

std::string declared(std::string_view parameters, std::string_view rest = "") {
  const std::string tools = R"([{"type": "function", "function": {"name": "f")" +
                            std::string(rest) + R"(, "parameters": )" + std::string(parameters) +
                            "}}]";
  const std::string text = typescript_tools(Json::parse(tools));
  constexpr std::string_view kHead = "# Tools\n\n## functions\nnamespace functions {\n";
  EXPECT_TRUE(text.starts_with(kHead)) << text;
  EXPECT_TRUE(text.ends_with("\n}\n")) << text;
  return text.substr(kHead.size(), text.size() - kHead.size() - 3);
}

TEST(TypescriptTools, PublishedExample) {
  EXPECT_EQ(typescript_tools(Json::parse(R"([{"type": "function", "function": {
      "name": "get_weather", "description": "Get weather information.",
      "parameters": {"type": "object", "required": ["city"], "properties": {
        "days": {"type": "integer", "minimum": 1, "default": 3},
        "city": {"type": "string", "description": "City name"}}}}}])")),
            "# Tools\n\n## functions\nnamespace functions {\n// Get weather information.\n"
            "type get_weather = (_: {\n  // City name\n  city: string,\n  // minimum: 1\n"
            "  // Default: 3\n  days?: number\n}) => any;\n}\n");
}

TEST(TypescriptTools, OnlyFunctionsCount) {
  EXPECT_EQ(typescript_tools(Json::array()), "");
  EXPECT_EQ(typescript_tools(Json(nullptr)), "");
  EXPECT_EQ(typescript_tools(Json::parse(R"([{"type": "_plugin", "name": "x"}, 3])")), "");
}

TEST(TypescriptTools, MembersRequiredFirstThenByName) {
  EXPECT_EQ(declared(R"({"properties": {"b": {"type": "string"}, "a": {"type": "number"},
                         "d": {"type": "null"}, "c": {"type": "boolean"}}, "required": ["d", "b"],
                         "additionalProperties": false})"),
            "type f = (_: {\n  b: string,\n  d: null,\n  a?: number,\n  c?: boolean,\n"
            "  [k: string]: never\n}) => any;");
  EXPECT_EQ(declared("{}"), "type f = (_: {}) => any;");
  EXPECT_EQ(declared(R"({"additionalProperties": {"type": "string"}})"),
            "type f = (_: {\n  [k: string]: string\n}) => any;");
}

TEST(TypescriptTools, TypesAndTheirPrecedence) {
  EXPECT_EQ(declared(R"({"required": ["a", "b", "c", "d", "e", "f", "g"], "properties": {
      "a": {"enum": ["x", 2, null, true], "type": "string"},
      "b": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
      "c": {"type": ["object", "array", "integer", "null"]}, "d": {}, "e": true, "f": false,
      "g": {"oneOf": [{"const": 1}]}}})"),
            "type f = (_: {\n  a: \"x\" | 2 | None | True,\n  b: number | Array<string>,\n"
            "  c: {} | Array<any> | number | null,\n  d: any,\n  e: any,\n  f: null,\n"
            "  g: any\n}) => any;");
}

TEST(TypescriptTools, CommentsConstraintsAndDefaults) {
  EXPECT_EQ(declared(R"({"properties": {
      "a": {"type": "string", "description": "one\n\ntwo", "pattern": "^x", "maxLength": 9,
            "minimum": 1, "default": "ü"},
      "b": {"type": "array", "maxItems": 3, "default": [1, {"k": 2}],
            "items": {"type": "object", "description": "An item.",
                      "properties": {"c": {"type": "boolean", "default": false}}}}}})"),
            "type f = (_: {\n  // one\n\n  // two\n  // maxLength: 9, pattern: ^x\n"
            "  // Default: \"ü\"\n  a?: string,\n  // maxItems: 3\n  // Default: [1, {\"k\": 2}]\n"
            "  b?: Array<\n    // An item.\n    {\n      // Default: False\n      c?: boolean\n"
            "    }\n  >\n}) => any;");
}

TEST(TypescriptTools, ReferencesBecomeInterfaces) {
  EXPECT_EQ(declared(R"({"$defs": {"Node": {"type": "object", "description": "A node.",
      "properties": {"next": {"$ref": "#/$defs/Node"}}}},
      "properties": {"b": {"$ref": "#/$defs/Node"}, "a": {"$ref": "#"}}})",
                     R"(, "description": "Does it.")"),
            "interface parameters {\n  b?: Node,\n  a?: parameters\n}\n// A node.\n"
            "interface Node {\n  next?: Node\n}\n// Does it.\n"
            "type f = (_: parameters) => any;");
}

}  // namespace
}  // namespace conclave::text
