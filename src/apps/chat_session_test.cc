#include "apps/chat_session.h"

#include <gtest/gtest.h>

#include "apps/answer_printer.h"

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

}  // namespace
}  // namespace conclave::apps
