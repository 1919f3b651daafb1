#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "base/rng.h"
#include "engine/fake_backend.h"

namespace conclave::engine {
namespace {

Request make_request(std::uint64_t id, std::uint64_t seed, std::size_t n_prompt,
                     std::size_t max_tokens) {
  Request request;
  request.id = RequestId{id};
  SplitMix random(seed);
  for (std::size_t i = 0; i < n_prompt; ++i) {
    request.prompt.push_back(
        TokenId{static_cast<std::uint32_t>(random.next() % FakeBackend::kVocab)});
  }
  request.sampling.seed = seed;
  request.max_tokens = max_tokens;
  return request;
}

struct Answer {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  std::string error;
  bool operator==(const Answer&) const = default;
};

void take(std::span<const TokenEvent> events, std::map<RequestId, Answer>& answers,
          std::size_t first_index = 0) {
  for (const TokenEvent& event : events) {
    Answer& answer = answers[event.request];
    ASSERT_EQ(answer.finish, FinishReason::kNone) << "an event after the end";
    ASSERT_EQ(event.index, first_index + answer.tokens.size());
    if (event.token) answer.tokens.push_back(*event.token);
    answer.finish = event.finish;
    answer.error = event.error;
  }
}

// The events of a step that cannot fail: the rank is alone.
std::vector<TokenEvent> stepped(Engine& engine) {
  auto events = engine.step();
  EXPECT_TRUE(events);
  return *std::move(events);
}

// The answer of a request that has the engine to itself.
Answer run_alone(const Request& request, const FakeOptions& options = {},
                 std::size_t chunk_tokens = 16) {
  FakeBackend backend(options);
  Engine engine(backend, nullptr, {.chunk_tokens = chunk_tokens});
  std::map<RequestId, Answer> answers;
  const auto admitted = engine.admit(request);
  EXPECT_TRUE(admitted);
  for (int step = 0; step < 10'000 && !engine.idle(); ++step) {
    take(stepped(engine), answers, request.generated.size());
  }
  EXPECT_TRUE(engine.idle());
  EXPECT_EQ(engine.stats().pages_used, 0u);
  return answers[request.id];
}

SamplingParams random_sampling(SplitMix& random) {
  SamplingParams params;
  params.seed = random.next();
  if (random.next() % 4 == 0) params.temperature = 0.0f;
  if (random.next() % 3 == 0) params.top_k = 5;
  if (random.next() % 3 == 0) params.top_p = 0.8f;
  if (random.next() % 3 == 0) params.repetition_penalty = 1.3f;
  if (random.next() % 3 == 0) params.frequency_penalty = 0.4f;
  return params;
}

TEST(Engine, AnswersUpToMaxTokens) {
  const Answer answer = run_alone(make_request(1, 1, 40, 10));
  EXPECT_EQ(answer.tokens.size(), 10u);
  EXPECT_EQ(answer.finish, FinishReason::kLength);
}

TEST(Engine, AnswersUpToTheContext) {
  const Answer answer = run_alone(make_request(1, 1, 40, 0), {.max_positions = 50});
  EXPECT_EQ(answer.tokens.size(), 10u);
  EXPECT_EQ(answer.finish, FinishReason::kLength);
}

// All pages of the pool are used to the last position, and no more.
TEST(Engine, AnswersUpToTheKvMemory) {
  const Answer answer =
      run_alone(make_request(1, 1, 40, 0), {.limits = {.rows_max = 64, .pages = 2}});
  EXPECT_EQ(answer.tokens.size(), 128u - 40u + 1u);
  EXPECT_EQ(answer.finish, FinishReason::kLength);
}

TEST(Engine, StopIdEndsTheAnswerAsItsLastToken) {
  Request request = make_request(1, 1, 10, 30);
  const Answer whole = run_alone(request);
  request.stop_ids = {whole.tokens[12], TokenId{9999}};
  const Answer stopped = run_alone(request);
  EXPECT_EQ(stopped.finish, FinishReason::kStop);
  EXPECT_EQ(stopped.tokens.back(), whole.tokens[12]);
  EXPECT_LE(stopped.tokens.size(), 13u);
  EXPECT_TRUE(std::equal(stopped.tokens.begin(), stopped.tokens.end(), whole.tokens.begin()));
}

TEST(Engine, BannedIdsNeverAppear) {
  Request request = make_request(1, 1, 10, 200);
  for (std::uint32_t id = 0; id < 60; ++id) request.banned_ids.push_back(TokenId{id});
  for (const TokenId id : run_alone(request).tokens) EXPECT_GE(id.value, 60u);
}

TEST(Engine, LogprobsReachTheEvents) {
  FakeBackend backend;
  Engine engine(backend, nullptr, {});
  Request request = make_request(1, 1, 4, 1);
  request.sampling.top_logprobs = 3;
  ASSERT_TRUE(engine.admit(request));
  const auto events = stepped(engine);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].top.size(), 3u);
  EXPECT_LT(events[0].logprob, 0.0f);
}

TEST(Engine, RefusalsLeaveNothingBehind) {
  FakeBackend backend({.limits = {.rows_max = 16, .pages = 2}});
  Engine engine(backend, nullptr, {.requests_max = 1});
  EXPECT_EQ(engine.admit(make_request(1, 1, 0, 5)).error().code, ErrorCode::kInvalidInput);
  EXPECT_EQ(engine.admit(make_request(1, 1, 100, 100)).error().code, ErrorCode::kExhausted);
  Request with_grammar = make_request(1, 1, 5, 5);
  with_grammar.grammar = text::GrammarSpec{.source = "{}"};
  EXPECT_EQ(engine.admit(with_grammar).error().code, ErrorCode::kUnsupported);
  EXPECT_TRUE(engine.idle());
  ASSERT_TRUE(engine.admit(make_request(1, 1, 5, 5)));
  EXPECT_EQ(engine.admit(make_request(2, 1, 5, 5)).error().code, ErrorCode::kExhausted);
}

TEST(Engine, CancelFreesItsPagesAndSaysSo) {
  FakeBackend backend;
  Engine engine(backend, nullptr, {.chunk_tokens = 16});
  ASSERT_TRUE(engine.admit(make_request(1, 1, 100, 100)));
  stepped(engine);
  EXPECT_GT(engine.stats().pages_used, 0u);
  EXPECT_EQ(engine.prefill_progress(RequestId{1}), (std::pair<std::size_t, std::size_t>(16, 100)));
  engine.cancel(RequestId{1});
  engine.cancel(RequestId{1});
  engine.cancel(RequestId{7});
  EXPECT_EQ(engine.stats().pages_used, 0u);
  EXPECT_FALSE(engine.prefill_progress(RequestId{1}));
  EXPECT_FALSE(engine.idle());  // the event is still to be fetched
  const auto events = stepped(engine);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].finish, FinishReason::kCancelled);
  EXPECT_FALSE(events[0].token);
  EXPECT_TRUE(engine.idle());
  EXPECT_TRUE(stepped(engine).empty());
  EXPECT_EQ(engine.stats().steps, 1u);
}

TEST(Engine, NanEndsItsRequestAlone) {
  FakeBackend backend;
  backend.nan_token = TokenId{63};
  Engine engine(backend, nullptr, {});
  Request bad = make_request(1, 1, 5, 5);
  bad.prompt = {TokenId{1}, TokenId{63}};
  Request good = make_request(2, 2, 5, 5);
  good.banned_ids = {TokenId{63}};
  good.prompt.back() = TokenId{0};
  ASSERT_TRUE(engine.admit(bad));
  ASSERT_TRUE(engine.admit(good));
  std::map<RequestId, Answer> answers;
  while (!engine.idle()) take(stepped(engine), answers);
  EXPECT_EQ(answers[RequestId{1}].finish, FinishReason::kError);
  EXPECT_TRUE(answers[RequestId{1}].tokens.empty());
  EXPECT_EQ(answers[RequestId{1}].error,
            "token 0 of the answer (position 2): the logit of token 59 is NaN");
  EXPECT_EQ(answers[RequestId{2}].tokens.size(), 5u);
}

// After a worker's death: whatever the log holds, the rest of the answer is the same.
TEST(Engine, RestartFromTheLogContinuesTheSameAnswer) {
  const FakeOptions options{.chunks_matter = true};  // a restart must keep every form
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SplitMix random(seed);
    Request request = make_request(1, seed, 1 + random.next() % 60, 25);
    request.sampling = random_sampling(random);
    const Answer whole = run_alone(request, options);
    const std::size_t n_sent = random.next() % 25;
    const auto sent = std::span(whole.tokens).first(n_sent);
    request.generated.assign(sent.begin(), sent.end());
    const Answer rest = run_alone(request, options);
    std::vector<TokenId> joined = request.generated;
    joined.insert(joined.end(), rest.tokens.begin(), rest.tokens.end());
    ASSERT_EQ(joined, whole.tokens) << "seed " << seed << ", " << n_sent << " tokens sent";
    ASSERT_EQ(rest.finish, whole.finish);
  }
}

TEST(Engine, CompleteLogEndsWithoutAStep) {
  FakeBackend backend;
  Engine engine(backend, nullptr, {});
  Request full = make_request(1, 1, 5, 3);
  full.generated = {TokenId{1}, TokenId{2}, TokenId{3}};
  Request stopped = make_request(2, 1, 5, 30);
  stopped.generated = {TokenId{1}, TokenId{2}};
  stopped.stop_ids = {TokenId{2}};
  ASSERT_TRUE(engine.admit(full));
  ASSERT_TRUE(engine.admit(stopped));
  const auto events = stepped(engine);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].finish, FinishReason::kLength);
  EXPECT_EQ(events[0].index, 3u);
  EXPECT_FALSE(events[0].token);
  EXPECT_EQ(events[1].finish, FinishReason::kStop);
  EXPECT_EQ(backend.n_steps, 0u);
  EXPECT_TRUE(engine.idle());
}

TEST(Engine, PromptChunksLieAtMultiples) {
  FakeBackend backend({.limits = {.rows_max = 20, .pages = 64}});
  Engine engine(backend, nullptr, {.chunk_tokens = 16});
  for (std::uint64_t id = 0; id < 6; ++id) {
    ASSERT_TRUE(engine.admit(make_request(id, id, 10 + 23 * id, 8)));
  }
  while (!engine.idle()) stepped(engine);
  for (const FakeBackend::Chunk& chunk : backend.chunks) {
    if (chunk.n_rows == 1) continue;  // a decode row, or a last chunk of one row
    EXPECT_EQ(chunk.position % 16, 0u);
  }
  EXPECT_EQ(engine.stats().prompt_tokens, 6 * 10 + 23 * 15u);
  EXPECT_EQ(engine.stats().generated_tokens, 6 * 8u);
}

TEST(Engine, LongPromptDelaysAnAnswerByOneChunk) {
  FakeBackend backend({.limits = {.rows_max = 16, .pages = 64}});
  Engine engine(backend, nullptr, {.chunk_tokens = 16});
  ASSERT_TRUE(engine.admit(make_request(1, 1, 5, 100)));
  stepped(engine);
  ASSERT_TRUE(engine.admit(make_request(2, 2, 1000, 2)));
  std::size_t rows_between = 0;
  for (int step = 0; step < 60; ++step) {
    const auto events = stepped(engine);
    rows_between += backend.rows_of_steps.back();
    for (const TokenEvent& event : events) {
      if (event.request != RequestId{1}) continue;
      EXPECT_LE(rows_between, 16u + 1u);
      rows_between = 0;
    }
  }
}

// One random history: requests of random shape arrive, some are cancelled, all others must get the
// tokens that they get alone, to the last bit of their chunks' form.
void run_schedule(std::uint64_t seed) {
  SplitMix random(seed);
  FakeOptions options;
  options.limits.rows_max = 4 + random.next() % 60;
  options.limits.pages = 3 + random.next() % 8;
  options.chunks_matter = true;
  const std::size_t chunk_tokens = 1 + random.next() % 48;
  FakeBackend backend(options);
  Engine engine(backend, nullptr, {.chunk_tokens = chunk_tokens});

  std::vector<Request> requests;
  const std::size_t n_requests = 2 + random.next() % 7;
  for (std::uint64_t id = 0; id < n_requests; ++id) {
    requests.push_back(
        make_request(id, random.next(), 1 + random.next() % 100, 1 + random.next() % 30));
    requests.back().sampling = random_sampling(random);
    if (random.next() % 3 == 0) requests.back().stop_ids = {TokenId{1}, TokenId{2}};
  }
  std::map<RequestId, Answer> answers;
  std::vector<RequestId> cancelled;
  std::size_t next = 0;
  for (int step = 0; step < 20'000 && (next < requests.size() || !engine.idle()); ++step) {
    while (next < requests.size() && random.next() % 3 == 0) {
      ASSERT_TRUE(engine.admit(requests[next++]));
    }
    take(stepped(engine), answers);
    if (next > 0 && random.next() % 40 == 0) {
      cancelled.push_back(requests[random.next() % next].id);
      engine.cancel(cancelled.back());
    }
  }
  ASSERT_TRUE(engine.idle());
  ASSERT_EQ(engine.stats().pages_used, 0u);
  for (const Request& request : requests) {
    const Answer alone = run_alone(request, options, chunk_tokens);
    const Answer& together = answers[request.id];
    if (together.finish == FinishReason::kCancelled) {
      ASSERT_NE(std::ranges::find(cancelled, request.id), cancelled.end());
      ASSERT_LE(together.tokens.size(), alone.tokens.size());
      ASSERT_TRUE(std::equal(together.tokens.begin(), together.tokens.end(), alone.tokens.begin()));
    } else {
      ASSERT_EQ(together, alone) << "request " << request.id.value;
    }
  }
}

TEST(Engine, TokensDoNotDependOnWhatElseRuns) {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    run_schedule(seed);
    if (HasFailure()) FAIL() << "seed " << seed;
  }
}

}  // namespace
}  // namespace conclave::engine
