#include "engine/trace.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace conclave::engine {
namespace {

std::uint32_t nanoseconds(Duration duration) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(ns, 0, std::numeric_limits<std::uint32_t>::max()));
}

}  // namespace

StepTrace::StepTrace(const Clock& clock, std::size_t n_layers, std::size_t n_experts)
    : clock_(clock),
      n_layers_(n_layers),
      n_experts_(n_experts),
      steps_(kTracedSteps),
      layers_(kTracedSteps * n_layers),
      expert_counts_(n_layers * n_experts) {}

std::uint32_t StepTrace::lap() {
  const Time now = clock_.now();
  const Duration passed = now - last_;
  last_ = now;
  return nanoseconds(passed);
}

void StepTrace::begin_step(std::size_t rows) {
  last_ = clock_.now();
  StepTimes& step = steps_[place(n_steps_ + 1)];
  step = {.number = n_steps_ + 1, .begin = last_, .rows = static_cast<std::uint32_t>(rows)};
  std::fill_n(layers_.begin() + static_cast<std::ptrdiff_t>(place(n_steps_ + 1) * n_layers_),
              n_layers_, LayerTimes{});
}

void StepTrace::begun() { steps_[place(n_steps_ + 1)].begin_ns = lap(); }

void StepTrace::attention(std::size_t l) { layer(l).attention = lap(); }

void StepTrace::attention_exchange(std::size_t l, Duration waited) {
  layer(l).attention_exchange = lap();
  layer(l).attention_wait = nanoseconds(waited - waited_);
  waited_ = waited;
}

void StepTrace::routed(std::size_t l, const backend::Routing& routing) {
  for (const ExpertId expert : routing.experts) {
    CHECK(expert.value < n_experts_);
    ++expert_counts_[l * n_experts_ + expert.value];
  }
}

void StepTrace::feed_forward(std::size_t l) { layer(l).feed_forward = lap(); }

void StepTrace::feed_forward_exchange(std::size_t l, Duration waited) {
  layer(l).feed_forward_exchange = lap();
  layer(l).feed_forward_wait = nanoseconds(waited - waited_);
  waited_ = waited;
}

void StepTrace::end_step() {
  StepTimes& step = steps_[place(n_steps_ + 1)];
  step.head_ns = lap();
  step.total_ns = nanoseconds(last_ - step.begin);
  ++n_steps_;
}

std::vector<StepTimes> StepTrace::steps() const {
  std::vector<StepTimes> steps;
  const std::uint64_t kept = std::min<std::uint64_t>(n_steps_, kTracedSteps - 1);
  for (std::uint64_t number = n_steps_ - kept + 1; number <= n_steps_; ++number) {
    steps.push_back(steps_[place(number)]);
  }
  return steps;
}

std::span<const LayerTimes> StepTrace::layers(const StepTimes& step) const {
  return std::span(layers_).subspan(place(step.number) * n_layers_, n_layers_);
}

TraceSummary summarise(const StepTrace& trace, std::size_t steps_max) {
  TraceSummary sum;
  const std::vector<StepTimes> steps = trace.steps();
  for (auto it = steps.rbegin(); it != steps.rend() && sum.steps < steps_max; ++it) {
    if (it->rows != 1) continue;
    ++sum.steps;
    sum.step_us += it->total_ns / 1e3;
    sum.begin_us += it->begin_ns / 1e3;
    sum.head_us += it->head_ns / 1e3;
    sum.exchanges = 0;
    for (const LayerTimes& layer : trace.layers(*it)) {
      sum.attention_us += layer.attention / 1e3;
      sum.feed_forward_us += layer.feed_forward / 1e3;
      sum.exchange_us += (layer.attention_exchange + layer.feed_forward_exchange) / 1e3;
      sum.wait_us += (layer.attention_wait + layer.feed_forward_wait) / 1e3;
      sum.exchanges +=
          (layer.attention_exchange > 0 ? 1 : 0) + (layer.feed_forward_exchange > 0 ? 1 : 0);
    }
  }
  if (sum.steps == 0) return sum;
  const auto n = static_cast<double>(sum.steps);
  for (double* value : {&sum.step_us, &sum.attention_us, &sum.feed_forward_us, &sum.exchange_us,
                        &sum.wait_us, &sum.begin_us, &sum.head_us}) {
    *value /= n;
  }
  return sum;
}

}  // namespace conclave::engine
