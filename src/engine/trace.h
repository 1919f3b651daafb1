// Where a step's time goes: a ring of the last steps of one rank, for the dashboard, the doctor and
// the planner. docs/design.md 4.
//
//   StepTrace trace(clock, config.n_layers, config.n_experts);
//   engine.set_trace(&trace);          // or Ranks::trace on other ranks
//   trace.summary();
//
// Cost: a look at the clock between two operations, below 0.5 % of a step. Memory is taken at the
// start. Threads: one writes and reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/ids.h"

namespace conclave::engine {

inline constexpr std::size_t kTracedSteps = 4096;

// Nanoseconds of one layer in one step. `wait` is the part of `exchange` spent in receive().
struct LayerTimes {
  std::uint32_t attention = 0;
  std::uint32_t attention_exchange = 0;
  std::uint32_t attention_wait = 0;
  std::uint32_t feed_forward = 0;  // the router included
  std::uint32_t feed_forward_exchange = 0;
  std::uint32_t feed_forward_wait = 0;
};

struct StepTimes {
  std::uint64_t number = 0;  // counts this rank's steps from 1
  Time begin{};
  std::uint32_t rows = 0;
  std::uint32_t begin_ns = 0;  // embedding, and the broadcast or its receipt
  std::uint32_t head_ns = 0;   // logits and their way to rank 0
  std::uint32_t total_ns = 0;
};

class StepTrace {
 public:
  // `clock` must outlive the trace.
  StepTrace(const Clock& clock, std::size_t n_layers, std::size_t n_experts);

  // A step's operations, in their order; each takes the time since the one before. `waited` is the
  // group's total time in receive() so far.
  void begin_step(std::size_t rows);
  void begun();
  void attention(std::size_t layer);
  void attention_exchange(std::size_t layer, Duration waited);
  void routed(std::size_t layer, const backend::Routing& routing);  // counts; takes no time
  void feed_forward(std::size_t layer);
  void feed_forward_exchange(std::size_t layer, Duration waited);
  void end_step();  // a step that breaks is never ended, and the next begins in its place

  std::uint64_t n_steps() const { return n_steps_; }
  // The steps that the ring still has, oldest first.
  std::vector<StepTimes> steps() const;
  // Of one of these.
  std::span<const LayerTimes> layers(const StepTimes& step) const;
  // How often each expert was chosen, [layers, experts], since the start.
  std::span<const std::uint64_t> expert_counts() const { return expert_counts_; }
  std::size_t n_layers() const { return n_layers_; }
  std::size_t n_experts() const { return n_experts_; }

 private:
  std::uint32_t lap();
  std::size_t place(std::uint64_t number) const { return (number - 1) % kTracedSteps; }
  LayerTimes& layer(std::size_t layer) { return layers_[place(n_steps_ + 1) * n_layers_ + layer]; }

  const Clock& clock_;
  std::size_t n_layers_;
  std::size_t n_experts_;
  std::uint64_t n_steps_ = 0;  // ended
  Time last_{};
  Duration waited_{};
  std::vector<StepTimes> steps_;    // [kTracedSteps]
  std::vector<LayerTimes> layers_;  // [kTracedSteps, layers]
  std::vector<std::uint64_t> expert_counts_;
};

// Means over the last steps with one row each (decode), for people and the planner.
struct TraceSummary {
  std::uint64_t steps = 0;  // that it is of
  double step_us = 0.0;
  double attention_us = 0.0;  // all layers together
  double feed_forward_us = 0.0;
  double exchange_us = 0.0;  // waiting included
  double wait_us = 0.0;
  double begin_us = 0.0;
  double head_us = 0.0;
  std::uint64_t exchanges = 0;  // per step
};
TraceSummary summarise(const StepTrace& trace, std::size_t steps_max);

}  // namespace conclave::engine
