#include <gtest/gtest.h>

#include "text/grammar_fixture.h"

namespace conclave::text {
namespace {

TEST_F(Grammar, SchemaThenTheEnd) {
  auto matcher = compiled({.kind = GrammarSpec::Kind::kJsonSchema, .source = R"({
      "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
      "required": ["city", "days"], "additionalProperties": false})"});
  EXPECT_FALSE(allowed(matcher)[end_.value]);
  expect_follows(matcher, R"({"city": "Zürich", "days": 3})");
  EXPECT_TRUE(allowed(matcher)[end_.value]);
  EXPECT_TRUE(matcher.finished());
  EXPECT_TRUE(matcher.accept(end_));
}

TEST_F(Grammar, NeverABannedNorAStrayToken) {
  auto matcher = compiled({.kind = GrammarSpec::Kind::kRegex, .source = "(.|\n)*"});
  const std::vector<bool> mask = allowed(matcher);
  for (const TokenId id : model_.banned_ids()) EXPECT_FALSE(mask[id.value]) << id.value;
  EXPECT_FALSE(mask[special(model_, "<|tool_call_begin|>").value]);
  EXPECT_TRUE(mask[end_.value]);
  EXPECT_FALSE(matcher.accept(special(model_, "<|tool_call_begin|>")));
  EXPECT_TRUE(matcher.accept(ids_of(model_, "a")[0])) << "a refused token changes nothing";
}

TEST_F(Grammar, JsonObject) {
  auto matcher = compiled({.kind = GrammarSpec::Kind::kJsonObject});
  expect_follows(matcher, R"({"a": [1, null, {"b": "<|im_end|x"}]})");
  EXPECT_TRUE(matcher.finished());
}

TEST_F(Grammar, StartsAfterReasoning) {
  auto matcher = compiled({.kind = GrammarSpec::Kind::kRegex, .source = "yes|no"}, "<think>");
  const std::vector<bool> mask = allowed(matcher);
  EXPECT_TRUE(mask[special(model_, "</think>").value]);
  EXPECT_FALSE(mask[end_.value]);
  EXPECT_FALSE(mask[special(model_, "<|tool_calls_section_begin|>").value]);
  EXPECT_FALSE(matcher.accept(end_));
  expect_follows(matcher, "let me see</think>no");
  EXPECT_TRUE(matcher.finished());
}

TEST_F(Grammar, BadSourcesAreErrors) {
  const auto error = [this](GrammarSpec::Kind kind, std::string source) {
    const auto matcher = model_.grammar({.kind = kind, .source = std::move(source)});
    EXPECT_FALSE(matcher);
    return matcher ? std::string() : matcher.error().message;
  };
  EXPECT_NE(error(GrammarSpec::Kind::kJsonSchema, "{").find("schema"), std::string::npos);
  EXPECT_NE(error(GrammarSpec::Kind::kRegex, "("), "");
  EXPECT_NE(error(GrammarSpec::Kind::kLark, "start: nothing"), "");
  const auto large = model_.grammar(
      {.kind = GrammarSpec::Kind::kRegex, .source = std::string((1u << 20) + 1, 'a')});
  ASSERT_FALSE(large);
  EXPECT_EQ(large.error().code, ErrorCode::kExhausted);
}

}  // namespace
}  // namespace conclave::text
