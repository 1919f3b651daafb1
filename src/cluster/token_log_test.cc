#include "cluster/token_log.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace conclave::cluster {
namespace {

using Verdict = TokenLog::Verdict;

engine::Request request(std::uint64_t id) {
  engine::Request out;
  out.id = RequestId{id};
  out.prompt = {TokenId{1}, TokenId{2}};
  return out;
}

TEST(TokenLog, TakesTheNextIndexOfTheCurrentAttemptOnly) {
  TokenLog log(request(1));
  log.admit(true);
  EXPECT_EQ(log.take(1, 0, TokenId{10}), Verdict::kTaken);
  EXPECT_EQ(log.take(1, 0, TokenId{10}), Verdict::kStale) << "repeated";
  EXPECT_EQ(log.take(1, 2, TokenId{12}), Verdict::kGap) << "one is missing";
  log.admit(true);
  EXPECT_EQ(log.take(1, 1, TokenId{11}), Verdict::kStale) << "from the worker that died";
  EXPECT_EQ(log.take(2, 1, TokenId{11}), Verdict::kTaken);
  EXPECT_EQ(log.tokens(), (std::vector<TokenId>{TokenId{10}, TokenId{11}}));
}

TEST(TokenLog, AnEndWithoutATokenObeysTheSameRule) {
  TokenLog log(request(1));
  log.admit(true);
  EXPECT_EQ(log.take(1, 1, std::nullopt), Verdict::kGap);
  EXPECT_EQ(log.take(1, 0, std::nullopt), Verdict::kTaken);
  EXPECT_TRUE(log.tokens().empty());
}

TEST(TokenLog, ANewWorkerIsToldWhatWasSent) {
  TokenLog log(request(9));
  EXPECT_EQ(log.admit(true).log_size(), 0);
  ASSERT_EQ(log.take(1, 0, TokenId{7}), Verdict::kTaken);
  const wire::pb::Admit again = log.admit(true);
  EXPECT_EQ(again.request(), 9u);
  EXPECT_EQ(again.attempt(), 2u);
  ASSERT_EQ(again.log_size(), 1);
  EXPECT_EQ(again.log(0), 7u);
  EXPECT_EQ(again.ids_size(), 2);
}

TEST(TokenLog, CountsAttemptsThatGaveNoToken) {
  TokenLog log(request(1));
  for (int i = 0; i < 3; ++i) log.admit(true);
  EXPECT_EQ(log.barren_attempts(), 3);
  ASSERT_EQ(log.take(3, 0, TokenId{1}), Verdict::kTaken);
  EXPECT_EQ(log.barren_attempts(), 0);
}

// A worker answers token i of the answer with i; it is killed at random, and what it sent before
// may arrive in part, and twice.
TEST(TokenLog, AnyScheduleOfDeathsAndDuplicatesGivesTheSameAnswer) {
  constexpr std::uint32_t kAnswer = 50;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    SplitMix random(seed);
    TokenLog log(request(seed));
    while (log.tokens().size() < kAnswer) {
      const wire::pb::Admit admit = log.admit(true);
      const auto start = static_cast<std::uint32_t>(admit.log_size());
      const auto n_sent = static_cast<std::uint32_t>(random.next() % 8);
      for (std::uint32_t i = start; i < std::min(start + n_sent, kAnswer); ++i) {
        ASSERT_EQ(log.take(admit.attempt(), i, TokenId{i}), Verdict::kTaken);
        if (random.next() % 3 == 0) {
          const auto late = static_cast<std::uint32_t>(random.next() % (i + 1));
          ASSERT_EQ(log.take(admit.attempt() - random.next() % 2, late, TokenId{late}),
                    Verdict::kStale);
        }
      }
    }
    ASSERT_EQ(log.tokens().size(), kAnswer) << "seed " << seed;
    for (std::uint32_t i = 0; i < kAnswer; ++i) ASSERT_EQ(log.tokens()[i].value, i);
  }
}

TEST(TokenLogs, KeepsTheOrderOfArrival) {
  TokenLogs logs;
  for (std::uint64_t id = 1; id <= 12; ++id) logs.open(request(id));
  EXPECT_TRUE(logs.close(RequestId{3}));
  EXPECT_FALSE(logs.close(RequestId{3}));
  EXPECT_EQ(logs.find(RequestId{3}), nullptr);
  EXPECT_EQ(logs.size(), 11u);
  EXPECT_EQ(logs.ids().front(), RequestId{1});
  EXPECT_EQ(logs.ids().back(), RequestId{12});
}

}  // namespace
}  // namespace conclave::cluster
