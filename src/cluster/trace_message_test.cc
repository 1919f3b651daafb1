#include "cluster/trace_message.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace conclave::cluster {
namespace {

using namespace std::chrono_literals;

TEST(TraceMessage, StepsBecomeJsonWithMeans) {
  ManualClock clock;
  engine::StepTrace trace(clock, 2, 3);
  for (int i = 0; i < 5; ++i) {
    trace.begin_step(i == 0 ? 20 : 1);
    trace.begun();
    for (std::size_t layer = 0; layer < 2; ++layer) {
      clock.advance(10us);
      trace.attention(layer);
      clock.advance(1us);
      trace.attention_exchange(layer, {});
      clock.advance(20us);
      trace.feed_forward(layer);
      clock.advance(2us);
      trace.feed_forward_exchange(layer, {});
    }
    trace.end_step();
  }
  wire::pb::Trace message = to_message(trace, 3);
  message.set_rank(1);
  add_exchanges({.exchanges = 20, .rounds = 22}, message);
  ASSERT_EQ(message.steps_size(), 3);
  EXPECT_EQ(message.n_steps(), 5u);
  const auto json = nlohmann::json::parse(trace_json({message}));
  const auto& rank = json["ranks"][0];
  EXPECT_EQ(rank["rank"], 1);
  EXPECT_EQ(rank["rounds"], 22);
  EXPECT_EQ(rank["decode"]["steps"], 3.0);
  EXPECT_DOUBLE_EQ(rank["decode"]["step_us"].get<double>(), 66.0);
  EXPECT_DOUBLE_EQ(rank["decode"]["exchange_us"].get<double>(), 6.0);
  EXPECT_EQ(rank["steps"][2]["attention_us"].size(), 2u);
  EXPECT_EQ(rank["expert_counts"].size(), 6u);
}

TEST(TraceMessage, NoStepsHaveNoMeans) {
  ManualClock clock;
  const engine::StepTrace trace(clock, 2, 3);
  const auto json = nlohmann::json::parse(trace_json({to_message(trace, 10)}));
  EXPECT_TRUE(json["ranks"][0]["decode"].is_null());
}

}  // namespace
}  // namespace conclave::cluster
