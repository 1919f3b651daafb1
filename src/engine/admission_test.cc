#include "engine/admission.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>

namespace conclave::engine {
namespace {

constexpr AdmissionLimits kLimits{.vocab_size = 100, .context = 50, .positions = 64};

Request request(std::size_t n_prompt, std::size_t max_tokens = 0) {
  Request request;
  request.prompt.assign(n_prompt, TokenId{1});
  request.max_tokens = max_tokens;
  return request;
}

TEST(Admission, AnswerEndsAtMaxTokensOrTheContext) {
  EXPECT_EQ(*check_request(request(10, 5), kLimits), 5u);
  EXPECT_EQ(*check_request(request(10, 1000), kLimits), 40u);
  EXPECT_EQ(*check_request(request(10), kLimits), 40u);
  EXPECT_EQ(*check_request(request(49), kLimits), 1u);
}

// The last token of an answer needs no position.
TEST(Admission, OpenEndedAnswerEndsWhereTheMemoryDoes) {
  const AdmissionLimits small{.vocab_size = 100, .context = 5000, .positions = 64};
  EXPECT_EQ(*check_request(request(10), small), 55u);
  EXPECT_EQ(*check_request(request(10, 55), small), 55u);
  EXPECT_EQ(check_request(request(10, 56), small).error().code, ErrorCode::kExhausted);
  EXPECT_EQ(*check_request(request(64), small), 1u);
  EXPECT_EQ(check_request(request(65), small).error().code, ErrorCode::kExhausted);
}

TEST(Admission, RefusesBadRequests) {
  EXPECT_EQ(check_request(request(0), kLimits).error().message, "the prompt is empty");
  EXPECT_EQ(check_request(request(50), kLimits).error().code, ErrorCode::kInvalidInput);
  Request bad = request(3);
  bad.prompt[2] = TokenId{100};
  EXPECT_EQ(check_request(bad, kLimits).error().message,
            "prompt token 2 is id 100; the vocabulary has 100");
  bad = request(3);
  bad.generated = {TokenId{101}};
  EXPECT_EQ(check_request(bad, kLimits).error().code, ErrorCode::kInvalidInput);
}

TEST(Admission, RefusesSamplingParametersOutOfRange) {
  const std::vector<std::function<void(SamplingParams&)>> changes{
      [](SamplingParams& p) { p.temperature = -0.1f; },
      [](SamplingParams& p) { p.temperature = std::nanf(""); },
      [](SamplingParams& p) { p.top_p = 1.5f; },
      [](SamplingParams& p) { p.min_p = -1.0f; },
      [](SamplingParams& p) { p.top_k = -1; },
      [](SamplingParams& p) { p.repetition_penalty = 0.0f; },
      [](SamplingParams& p) { p.presence_penalty = INFINITY; },
      [](SamplingParams& p) { p.frequency_penalty = -INFINITY; },
      [](SamplingParams& p) {
        p.logit_bias = {{TokenId{100}, 1.0f}};
      },
      [](SamplingParams& p) {
        p.logit_bias = {{TokenId{1}, std::nanf("")}};
      },
      [](SamplingParams& p) { p.top_logprobs = 21; },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Request bad = request(3);
    changes[i](bad.sampling);
    const auto result = check_request(bad, kLimits);
    ASSERT_FALSE(result) << "change " << i;
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidInput) << "change " << i;
  }
}

}  // namespace
}  // namespace conclave::engine
