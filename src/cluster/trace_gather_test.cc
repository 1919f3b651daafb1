#include "cluster/trace_gather.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace conclave::cluster {
namespace {

using namespace std::chrono_literals;

wire::pb::Trace trace(std::uint64_t id, std::uint32_t rank) {
  wire::pb::Trace trace;
  trace.set_id(id);
  trace.set_rank(rank);
  return trace;
}

TEST(TraceGather, AnswersWhenAllRanksHave) {
  TraceGather gather;
  std::string json;
  const std::uint64_t id =
      gather.begin(Time{}, 2, [&](std::string text) { json = std::move(text); });
  gather.on_trace(trace(id, 1));
  gather.on_trace(trace(id, 1));
  EXPECT_TRUE(json.empty());
  gather.on_trace(trace(id, 0));
  const auto parsed = nlohmann::json::parse(json);
  ASSERT_EQ(parsed["ranks"].size(), 2u);
  EXPECT_EQ(parsed["ranks"][0]["rank"], 0);
}

TEST(TraceGather, ASilentRankIsNotWaitedForForEver) {
  TraceGather gather;
  std::string json;
  const std::uint64_t id =
      gather.begin(Time{}, 2, [&](std::string text) { json = std::move(text); });
  gather.on_trace(trace(id, 0));
  gather.on_tick(Time{} + 499ms);
  EXPECT_TRUE(json.empty());
  gather.on_tick(Time{} + 500ms);
  EXPECT_EQ(nlohmann::json::parse(json)["ranks"].size(), 1u);
  gather.on_trace(trace(id, 1));  // nobody asks any more
}

TEST(TraceGather, QuestionsHaveALimit) {
  TraceGather gather;
  std::size_t answered = 0;
  for (std::size_t i = 0; i <= TraceGather::kQuestionsMax; ++i) {
    gather.begin(Time{}, 1, [&](const std::string&) { ++answered; });
  }
  EXPECT_EQ(answered, 1u);
  gather.on_tick(Time{} + 1s);
  EXPECT_EQ(answered, TraceGather::kQuestionsMax + 1);
}

}  // namespace
}  // namespace conclave::cluster
