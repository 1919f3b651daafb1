#include "server/generation.h"

#include <gtest/gtest.h>

#include "server/chat_api.h"

namespace conclave::server {
namespace {

using Kind = AnswerEvent::Kind;

// The built-in model's vocabulary and template; answers are written by the test.
class GenerationTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto text = text::TextModel::load("models/ember", 8192);
    ASSERT_TRUE(text) << text.error().message;
    text_ = std::make_unique<text::TextModel>(std::move(text).value());
  }
  static void TearDownTestSuite() { text_.reset(); }

  static GenerateRequest request(const char* fields) {
    Json body = Json::parse(R"({"messages": [{"role": "user", "content": "hi"}]})");
    body.update(Json::parse(fields));
    auto parsed = parse_chat_request(body, {.vocab_size = 8192});
    EXPECT_TRUE(parsed);
    return parsed ? parsed.value() : GenerateRequest{};
  }
  static Parsed<Generation> start(const char* fields, std::size_t context = 4096) {
    CheckedGrammars checked;
    return start_generation(*text_, request(fields), context, /*seed=*/77, checked);
  }
  static Generation good(const char* fields) {
    auto generation = start(fields);
    EXPECT_TRUE(generation);
    return std::move(generation.value());
  }

  // Pushes the tokens of `answer` (specials allowed), then the end; all events.
  static std::vector<AnswerEvent> say(Choice& choice, std::string_view answer,
                                      engine::FinishReason finish) {
    const auto ids = text_->encode(answer, text::Specials::kAllowed);
    EXPECT_TRUE(ids);
    std::vector<AnswerEvent> all;
    const auto push = [&](std::optional<TokenId> id, engine::FinishReason reason) {
      if (choice.ended()) return;
      engine::TokenEvent event;
      event.token = id;
      event.finish = reason;
      event.logprob = -1.0f;
      for (AnswerEvent& piece : choice.push(event)) all.push_back(std::move(piece));
    };
    for (const TokenId id : ids.value()) push(id, engine::FinishReason::kNone);
    push(text_->stop_ids().front(), finish);
    return all;
  }
  static std::string text_of(const std::vector<AnswerEvent>& events, Kind kind) {
    std::string out;
    for (const AnswerEvent& event : events) {
      if (event.kind == kind) out += event.text;
    }
    return out;
  }

  // NOLINTNEXTLINE(readability-identifier-naming): a member of the tests all the same
  static std::unique_ptr<text::TextModel> text_;
};

std::unique_ptr<text::TextModel> GenerationTest::text_;

TEST_F(GenerationTest, ContentThenEnd) {
  Generation generation = good("{}");
  const auto events =
      say(generation.choices[0], "Caf\xc3\xa9 \xf0\x9f\xa6\x8a!", engine::FinishReason::kStop);
  EXPECT_EQ(text_of(events, Kind::kText), "Caf\xc3\xa9 \xf0\x9f\xa6\x8a!");
  EXPECT_EQ(events.back().kind, Kind::kEnd);
  EXPECT_EQ(events.back().end, AnswerEnd::kStop);
  EXPECT_TRUE(generation.ended());
  EXPECT_GT(generation.usage().prompt_tokens, 3u);
  EXPECT_GT(generation.usage().completion_tokens, 2u);
}

TEST_F(GenerationTest, CutOffIsLength) {
  Generation generation = good("{}");
  EXPECT_EQ(say(generation.choices[0], "abc", engine::FinishReason::kLength).back().end,
            AnswerEnd::kLength);
}

TEST_F(GenerationTest, AStopStringEndsTheAnswerAndIsNeverShown) {
  const std::string answer = "one two three four five";
  for (const char* stop : {"three", "o three", " f", "five"}) {
    Generation generation = good((R"({"stop": [")" + std::string(stop) + R"("]})").c_str());
    const auto events = say(generation.choices[0], answer, engine::FinishReason::kStop);
    EXPECT_EQ(text_of(events, Kind::kText), answer.substr(0, answer.find(stop))) << stop;
    EXPECT_EQ(events.back().end, AnswerEnd::kStop);
    EXPECT_TRUE(generation.choices[0].ended());
  }
}

TEST_F(GenerationTest, WhatOnlyBeganAStopStringIsShownAtTheEnd) {
  Generation generation = good(R"({"stop": ["five hundred"]})");
  const auto events = say(generation.choices[0], "four five", engine::FinishReason::kStop);
  EXPECT_EQ(text_of(events, Kind::kText), "four five");
}

const char* const kTools =
    R"({"tools": [{"type": "function", "function": {"name": "f", "parameters":
        {"type": "object", "properties": {"a": {"type": "integer"}}}}}]})";
const std::string kTwoCalls =
    "Let me see.<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
    "<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_call_begin|>functions.f:1"
    "<|tool_call_argument_begin|>{\"a\": 2}<|tool_call_end|><|tool_calls_section_end|>";

TEST_F(GenerationTest, CallsEndWithToolCalls) {
  Generation generation = good(kTools);
  const auto events = say(generation.choices[0], kTwoCalls, engine::FinishReason::kStop);
  EXPECT_EQ(text_of(events, Kind::kText), "Let me see.");
  EXPECT_EQ(text_of(events, Kind::kToolArguments), "{\"a\": 1}{\"a\": 2}");
  EXPECT_EQ(events.back().end, AnswerEnd::kToolCalls);
  int begun = 0;
  for (const AnswerEvent& event : events) {
    if (event.kind != Kind::kToolBegin) continue;
    EXPECT_EQ(event.tool_index, begun++);
  }
  EXPECT_EQ(begun, 2);
}

TEST_F(GenerationTest, WithoutParallelCallsTheFirstIsTheLast) {
  Json body = Json::parse(kTools);
  body["parallel_tool_calls"] = false;
  Generation generation = good(dump(body).c_str());
  const auto events = say(generation.choices[0], kTwoCalls, engine::FinishReason::kStop);
  EXPECT_EQ(text_of(events, Kind::kToolArguments), "{\"a\": 1}");
  EXPECT_EQ(events.back().end, AnswerEnd::kToolCalls);
}

TEST_F(GenerationTest, ACallCutOffSaysLength) {
  Generation generation = good(kTools);
  const auto events =
      say(generation.choices[0], kTwoCalls.substr(0, 100), engine::FinishReason::kLength);
  EXPECT_EQ(events.back().end, AnswerEnd::kLength);
}

TEST_F(GenerationTest, EveryTokenHasItsLogprobOnce) {
  Generation generation = good(R"({"logprobs": true, "stop": ["zzz"]})");
  const std::string answer = "a zz b \xf0\x9f\xa6\x8a zz";
  const auto events = say(generation.choices[0], answer, engine::FinishReason::kStop);
  std::string bytes;
  for (const AnswerEvent& event : events) {
    for (const LogprobEntry& entry : event.logprobs) bytes += entry.token.bytes;
  }
  EXPECT_EQ(bytes, answer);
}

TEST_F(GenerationTest, TokensThatAStopStringTookBackHaveNoLogprobs) {
  const std::string answer = "one two three four five";
  for (const char* stop : {"three", "three four", "two three four f", "one"}) {
    Json fields = Json{{"logprobs", true}, {"stop", stop}};
    Generation generation = good(dump(fields).c_str());
    const auto events = say(generation.choices[0], answer, engine::FinishReason::kStop);
    std::string bytes;
    std::size_t start = 0;  // of the last token sent
    for (const AnswerEvent& event : events) {
      for (const LogprobEntry& entry : event.logprobs) {
        start = bytes.size();
        bytes += entry.token.bytes;
      }
    }
    const std::string shown = text_of(events, Kind::kText);
    EXPECT_EQ(shown, answer.substr(0, answer.find(stop)));
    EXPECT_TRUE(bytes.starts_with(shown)) << bytes;
    EXPECT_TRUE(shown.empty() ? bytes.empty() : start < shown.size()) << stop << ": " << bytes;
  }
}

TEST_F(GenerationTest, TheEngineIsToldEverything) {
  const Generation generation = good(R"({"n": 2, "seed": 5, "max_tokens": 9, "temperature": 0.5})");
  ASSERT_EQ(generation.requests.size(), 2u);
  const engine::Request& request = generation.requests[1];
  EXPECT_EQ(request.sampling.choice, 1u);
  EXPECT_EQ(request.sampling.seed, 5u);
  EXPECT_EQ(request.max_tokens, 9u);
  EXPECT_EQ(request.stop_ids, text_->stop_ids());
  EXPECT_EQ(request.prompt, generation.prompt);
  const auto call = text_->special("<|tool_calls_section_begin|>");
  ASSERT_TRUE(call.has_value());
  const auto bans = [&call](const Generation& made) {
    const auto& banned = made.requests[0].banned_ids;
    return std::find(banned.begin(), banned.end(), *call) != banned.end();
  };
  EXPECT_TRUE(bans(generation)) << "no tools, no calls";
  EXPECT_FALSE(bans(good(kTools)));
  EXPECT_EQ(good("{}").requests[0].sampling.seed, 77u);
  EXPECT_TRUE(good(R"({"ignore_eos": true})").requests[0].stop_ids.empty());
}

TEST_F(GenerationTest, MaxTokensIsAtMostWhatFits) {
  const Generation generation = good(R"({"max_tokens": 32000})");
  EXPECT_EQ(generation.requests[0].max_tokens, 4096 - generation.prompt.size());
}

TEST_F(GenerationTest, APromptThatDoesNotFitHasItsCodeAndNumbers) {
  auto generation = start("{}", 8);
  ASSERT_FALSE(generation);
  EXPECT_EQ(generation.error().code, "context_length_exceeded");
  EXPECT_EQ(generation.error().status, 400);
  EXPECT_NE(generation.error().message.find("8 tokens"), std::string::npos);
}

TEST_F(GenerationTest, TextThatCannotFitIsRefusedBeforeItIsRendered) {
  const Json huge = Json{
      {"messages", Json::array({Json{{"role", "user"}, {"content", std::string(2 << 20, 'a')}}})}};
  auto generation = start(dump(huge).c_str());
  ASSERT_FALSE(generation);
  EXPECT_EQ(generation.error().code, "context_length_exceeded");
  EXPECT_NE(generation.error().message.find("20971"), std::string::npos) << "the bytes found";
  EXPECT_NE(generation.error().message.find("1048576 bytes"), std::string::npos);
}

TEST_F(GenerationTest, GrammarsAreCheckedBeforeTheAnswerBegins) {
  auto bad = start(R"({"response_format": {"type": "json_schema",
                        "json_schema": {"schema": {"type": "nonsense"}}}})");
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().param, "response_format");
  auto bad_regex = start(R"({"guided_regex": "("})");
  ASSERT_FALSE(bad_regex);
  EXPECT_EQ(bad_regex.error().param, "guided_regex");
  const Generation required = [] {
    Json body = Json::parse(kTools);
    body["tool_choice"] = "required";
    return good(dump(body).c_str());
  }();
  EXPECT_TRUE(required.requests[0].grammar.has_value());
}

TEST(CheckedGrammarsTest, RemembersTheLastEight) {
  const auto spec = [](int i) {
    return text::GrammarSpec{.kind = text::GrammarSpec::Kind::kRegex, .source = std::to_string(i)};
  };
  CheckedGrammars checked;
  for (int i = 0; i < 9; ++i) checked.add(spec(i));
  EXPECT_FALSE(checked.contains(spec(0)));
  for (int i = 1; i < 9; ++i) EXPECT_TRUE(checked.contains(spec(i)));
  EXPECT_FALSE(checked.contains({.kind = text::GrammarSpec::Kind::kLark, .source = "8"}));
}

}  // namespace
}  // namespace conclave::server
