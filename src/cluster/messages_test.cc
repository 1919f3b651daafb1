#include "cluster/messages.h"

#include <gtest/gtest.h>

namespace conclave::cluster {
namespace {

engine::Request full_request() {
  engine::Request request;
  request.id = RequestId{42};
  request.prompt = {TokenId{1}, TokenId{163839}};
  request.generated = {TokenId{5}};
  request.sampling.temperature = 0.25f;
  request.sampling.top_k = 40;
  request.sampling.top_p = 0.9f;
  request.sampling.min_p = 0.05f;
  request.sampling.repetition_penalty = 1.1f;
  request.sampling.presence_penalty = -0.5f;
  request.sampling.frequency_penalty = 0.5f;
  request.sampling.logit_bias = {{TokenId{3}, -100.0f}};
  request.sampling.seed = ~std::uint64_t{0};
  request.sampling.choice = 2;
  request.sampling.top_logprobs = 20;
  request.max_tokens = 7;
  request.stop_ids = {TokenId{8}};
  request.banned_ids = {TokenId{9}, TokenId{10}};
  request.grammar = text::GrammarSpec{.kind = text::GrammarSpec::Kind::kRegex, .source = "a+"};
  return request;
}

TEST(Messages, ARequestSurvivesTheRoundTrip) {
  const engine::Request sent = full_request();
  const wire::pb::Admit admit = to_message(sent, 3);
  EXPECT_EQ(admit.attempt(), 3u);
  const auto received = from_message(admit);
  ASSERT_TRUE(received);
  const engine::Request& request = received.value();
  EXPECT_EQ(request.id, sent.id);
  EXPECT_EQ(request.prompt, sent.prompt);
  EXPECT_EQ(request.generated, sent.generated);
  EXPECT_EQ(request.sampling.temperature, sent.sampling.temperature);
  EXPECT_EQ(request.sampling.top_k, sent.sampling.top_k);
  EXPECT_EQ(request.sampling.top_p, sent.sampling.top_p);
  EXPECT_EQ(request.sampling.min_p, sent.sampling.min_p);
  EXPECT_EQ(request.sampling.repetition_penalty, sent.sampling.repetition_penalty);
  EXPECT_EQ(request.sampling.presence_penalty, sent.sampling.presence_penalty);
  EXPECT_EQ(request.sampling.frequency_penalty, sent.sampling.frequency_penalty);
  EXPECT_EQ(request.sampling.logit_bias, sent.sampling.logit_bias);
  EXPECT_EQ(request.sampling.seed, sent.sampling.seed);
  EXPECT_EQ(request.sampling.choice, sent.sampling.choice);
  EXPECT_EQ(request.sampling.top_logprobs, sent.sampling.top_logprobs);
  EXPECT_EQ(request.max_tokens, sent.max_tokens);
  EXPECT_EQ(request.stop_ids, sent.stop_ids);
  EXPECT_EQ(request.banned_ids, sent.banned_ids);
  ASSERT_TRUE(request.grammar.has_value());
  EXPECT_EQ(request.grammar->kind, sent.grammar->kind);
  EXPECT_EQ(request.grammar->source, sent.grammar->source);
}

TEST(Messages, NoLogprobsStaysNoLogprobs) {
  engine::Request request;
  request.prompt = {TokenId{1}};
  EXPECT_EQ(from_message(to_message(request, 1)).value().sampling.top_logprobs, -1);
  EXPECT_FALSE(from_message(to_message(request, 1)).value().grammar.has_value());
}

TEST(Messages, ATokenSurvivesTheRoundTrip) {
  engine::TokenEvent event;
  event.request = RequestId{7};
  event.index = 3;
  event.token = TokenId{0};  // 0 is an id like any other
  event.finish = engine::FinishReason::kLength;
  event.logprob = -0.5f;
  event.top = {{.id = TokenId{4}, .logprob = -0.1f}};
  const auto received = from_message(to_message(event, 2));
  ASSERT_TRUE(received);
  EXPECT_EQ(received.value().request, event.request);
  EXPECT_EQ(received.value().index, 3u);
  EXPECT_EQ(received.value().token, std::optional(TokenId{0}));
  EXPECT_EQ(received.value().finish, engine::FinishReason::kLength);
  EXPECT_EQ(received.value().logprob, -0.5f);
  ASSERT_EQ(received.value().top.size(), 1u);
  EXPECT_EQ(received.value().top[0].id, TokenId{4});
}

TEST(Messages, AFailureKeepsItsCode) {
  const wire::pb::Token token = failure_message(RequestId{1}, 2, 0, exhausted("too long"));
  EXPECT_EQ(from_message(token).value().finish, engine::FinishReason::kError);
  EXPECT_EQ(failure_of(token).code, ErrorCode::kExhausted);
  EXPECT_EQ(failure_of(token).message, "too long");
}

TEST(Messages, UnknownEnumeratorsAreCorrupt) {
  wire::pb::Token token;
  token.set_finish(5);
  ASSERT_FALSE(from_message(token));
  EXPECT_EQ(from_message(token).error().code, ErrorCode::kCorrupt);
  wire::pb::Admit admit;
  admit.mutable_grammar()->set_kind(4);
  EXPECT_FALSE(from_message(admit));
}

}  // namespace
}  // namespace conclave::cluster
