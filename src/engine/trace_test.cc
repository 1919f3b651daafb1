#include "engine/trace.h"

#include <gtest/gtest.h>

namespace conclave::engine {
namespace {

using namespace std::chrono_literals;

class TraceTest : public testing::Test {
 protected:
  // Two layers: attention 3 us, its exchange 2 us (1 us waiting), FFN 5 us, its exchange 4 us.
  void run_step(std::size_t rows) {
    trace_.begin_step(rows);
    clock_.advance(1us);
    trace_.begun();
    for (std::size_t layer = 0; layer < 2; ++layer) {
      clock_.advance(3us);
      trace_.attention(layer);
      clock_.advance(2us);
      waited_ += 1us;
      trace_.attention_exchange(layer, waited_);
      clock_.advance(5us);
      trace_.feed_forward(layer);
      clock_.advance(4us);
      waited_ += 3us;
      trace_.feed_forward_exchange(layer, waited_);
    }
    clock_.advance(7us);
    trace_.end_step();
  }

  ManualClock clock_;
  Duration waited_{};
  StepTrace trace_{clock_, 2, 4};
};

TEST_F(TraceTest, AStepsTimeIsDividedAmongItsOperations) {
  run_step(1);
  const auto steps = trace_.steps();
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_EQ(steps[0].total_ns, 36'000u);
  EXPECT_EQ(steps[0].begin_ns, 1'000u);
  EXPECT_EQ(steps[0].head_ns, 7'000u);
  const auto layers = trace_.layers(steps[0]);
  for (const LayerTimes& layer : layers) {
    EXPECT_EQ(layer.attention, 3'000u);
    EXPECT_EQ(layer.attention_exchange, 2'000u);
    EXPECT_EQ(layer.attention_wait, 1'000u);
    EXPECT_EQ(layer.feed_forward, 5'000u);
    EXPECT_EQ(layer.feed_forward_exchange, 4'000u);
    EXPECT_EQ(layer.feed_forward_wait, 3'000u);
  }
}

TEST_F(TraceTest, TheRingKeepsTheLastSteps) {
  for (std::size_t i = 0; i < kTracedSteps + 10; ++i) run_step(1 + i % 2);
  const auto steps = trace_.steps();
  EXPECT_EQ(steps.size(), kTracedSteps - 1);
  EXPECT_EQ(steps.back().number, kTracedSteps + 10);
  for (std::size_t i = 1; i < steps.size(); ++i) {
    ASSERT_EQ(steps[i].number, steps[i - 1].number + 1);
  }
}

TEST_F(TraceTest, ABrokenStepLeavesNoTrace) {
  run_step(1);
  trace_.begin_step(1);
  clock_.advance(3us);
  trace_.attention(0);
  run_step(1);
  EXPECT_EQ(trace_.steps().size(), 2u);
  EXPECT_EQ(trace_.steps().back().total_ns, 36'000u);
}

TEST_F(TraceTest, TheSummaryIsOfDecodeSteps) {
  run_step(1);
  run_step(100);
  run_step(1);
  const TraceSummary sum = summarise(trace_, 64);
  EXPECT_EQ(sum.steps, 2u);
  EXPECT_DOUBLE_EQ(sum.step_us, 36.0);
  EXPECT_DOUBLE_EQ(sum.attention_us, 6.0);
  EXPECT_DOUBLE_EQ(sum.feed_forward_us, 10.0);
  EXPECT_DOUBLE_EQ(sum.exchange_us, 12.0);
  EXPECT_DOUBLE_EQ(sum.wait_us, 8.0);
  EXPECT_EQ(sum.exchanges, 4u);
}

TEST_F(TraceTest, ExpertsAreCounted) {
  const std::vector<ExpertId> experts = {ExpertId{1}, ExpertId{3}, ExpertId{1}, ExpertId{2}};
  const std::vector<float> weights(4, 0.5f);
  trace_.routed(1, {experts, weights});
  EXPECT_EQ(trace_.expert_counts()[4 + 1], 2u);
  EXPECT_EQ(trace_.expert_counts()[4 + 3], 1u);
  EXPECT_EQ(trace_.expert_counts()[0 + 1], 0u);
}

}  // namespace
}  // namespace conclave::engine
