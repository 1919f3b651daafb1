#include "apps/chat_session.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "apps/answer_printer.h"
#include "apps/loaded_model.h"

namespace conclave::apps {
namespace {

TEST(SamplingOf, FlagThenRecommendationThenDefault) {
  const text::Json recommended{{"temperature", 0.6}, {"top_k", 20}, {"top_p", "broken"}};
  ChatOptions options;
  engine::SamplingParams sampling = sampling_of(options, recommended);
  EXPECT_FLOAT_EQ(sampling.temperature, 0.6f);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_FLOAT_EQ(sampling.top_p, 1.0f);
  options.temperature = 0.0f;
  options.top_k = 0;
  sampling = sampling_of(options, recommended);
  EXPECT_FLOAT_EQ(sampling.temperature, 0.0f);
  EXPECT_EQ(sampling.top_k, 0);
}

TEST(AnswerJson, HasTheDocumentedFields) {
  Answer answer;
  answer.content = "hi";
  answer.reasoning = "hm";
  answer.tool_calls.push_back({.id = "functions.f:0", .name = "f", .arguments = "{}"});
  answer.finish_reason = "tool_calls";
  answer.prompt_tokens = 3;
  answer.completion_tokens = 2;
  const text::Json json = to_json(answer);
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"text", "reasoning", "tool_calls", "finish_reason",
                                            "prompt_tokens", "completion_tokens", "ttft_s",
                                            "tokens_per_second"}));
  EXPECT_EQ(json["tool_calls"][0]["function"]["name"], "f");
  EXPECT_EQ(json["tool_calls"][0]["type"], "function");
}

TEST(SpeedLine, LeavesOutWhatIsNotKnown) {
  Answer answer;
  answer.ttft_s = 0.25;
  answer.completion_tokens = 1;
  answer.finish_reason = "stop";
  EXPECT_EQ(speed_line(answer), "first token 0.25 s, 1 tokens");
  answer.completion_tokens = 11;
  answer.tokens_per_second = 35.25;
  answer.finish_reason = "length";
  EXPECT_EQ(speed_line(answer), "first token 0.25 s, 35.2 tok/s, 11 tokens (length)");
}

// With the built-in model; tests run in the root of the repository.
class EmberSession : public testing::Test {
 protected:
  void SetUp() override {
    ModelOptions model;
    model.model = "models/ember";
    model.context = 256;
    LoadPlan plan;
    plan.rows_max = 64;
    plan.quiet = true;
    auto loaded = load_model(program_, model, plan);
    ASSERT_TRUE(loaded) << loaded.error().message;
    loaded_ = *std::move(loaded);
    auto text = load_text(loaded_.dir, loaded_.config());
    ASSERT_TRUE(text) << text.error().message;
    text_.emplace(*std::move(text));
  }

  ChatSession session(ChatOptions options) {
    options.temperature = 0.0f;
    options.context_max = loaded_.context;
    return ChatSession(clock_, *loaded_.backend, *text_, std::move(options));
  }

  RealClock clock_;
  Program program_{
      .clock = clock_,
      .settings = Settings::parse("", "none", [](const std::string&) { return std::nullopt; }),
      .terminal = {},
      .output = Output(STDOUT_FILENO),
      .binary = {},
      .action = {}};
  LoadedModel loaded_;
  std::optional<text::TextModel> text_;
};

TEST_F(EmberSession, PrefillIsReportedBeforeTheFirstTokenAlone) {
  ChatOptions options;
  options.max_tokens = 8;
  bool answering = false;
  std::size_t reports = 0;
  AnswerSink sink;
  sink.event = [&](const text::OutputEvent&) { answering = true; };
  sink.prefill = [&](std::size_t, std::size_t) {
    ++reports;
    EXPECT_FALSE(answering);
  };
  const auto answer = session(options).ask("Hello!", sink);
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_TRUE(answering);
  EXPECT_GE(reports, 1u);
}

TEST_F(EmberSession, StopStringInTheLastAllowedTokenIsAStop) {
  ChatOptions options;
  options.max_tokens = 1;
  const Answer whole = *session(options).ask("Hello!", {});
  ASSERT_EQ(whole.finish_reason, "length");
  ASSERT_FALSE(whole.content.empty());
  options.stops = {whole.content};
  const Answer cut = *session(options).ask("Hello!", {});
  EXPECT_EQ(cut.finish_reason, "stop");
  EXPECT_EQ(cut.content, "");
}

TEST_F(EmberSession, WhatIsCancelledBeforeItsFirstTokenIsForgotten) {
  ChatOptions options;
  options.max_tokens = 2;
  ChatSession chat = session(options);
  AnswerSink sink;
  sink.stop_wanted = [] { return true; };
  const auto answer = chat.ask("Hello!", sink);
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->finish_reason, "cancelled");
  EXPECT_TRUE(chat.messages().empty());
  ASSERT_TRUE(chat.ask("Hello!", {}));
  EXPECT_EQ(chat.messages().size(), 2u);
}

TEST_F(EmberSession, ContextAboveTheModelsIsWrongUsage) {
  ModelOptions model;
  model.context = 1'000'000;
  EXPECT_FALSE(program_.wrong_usage);
  EXPECT_FALSE(context_of(program_, loaded_.config(), model));
  EXPECT_TRUE(program_.wrong_usage);
}

}  // namespace
}  // namespace conclave::apps
