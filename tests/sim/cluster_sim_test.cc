// The promise under test: whatever is lost, doubled, late or dead, a token is bit for bit that of
// one machine, or its request fails with a stated error; and once all is mended, all requests end.
//
//   CONCLAVE_SIM_SEEDS=100000   so many seeds, from CONCLAVE_SIM_FIRST on
//   CONCLAVE_SIM_SEED=17        that one, told in full
#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <string_view>

#include "runner.h"
#include "toy_pool.h"

namespace conclave::cluster_sim {
namespace {

constexpr std::uint64_t kSeedsDefault = 2000;
// From so many seeds on every kind of fault must have struck so often in every phase.
constexpr std::uint64_t kSeedsForCoverage = 2000;
constexpr std::uint64_t kStrikesMin = 20;
constexpr std::uint64_t kRunTwiceEvery = 50;

std::optional<std::uint64_t> from_environment(const char* name) {
  // Read before anything else runs: one thread.
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  if (text == nullptr) return std::nullopt;
  const std::string_view digits(text);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  EXPECT_TRUE(error == std::errc() && end == digits.data() + digits.size()) << name << '=' << text;
  return value;
}

Outcome run_seed(std::uint64_t seed, sim::FiberStacks& stacks, Reached& reached) {
  const Scenario scenario = draw_scenario(seed);
  RunLimits limits;
  // A worker that hangs while it loads is not told from a slow disk before this.
  const auto hangs = [](const Fault& f) { return f.kind == FaultKind::kWorkerStuck && f.forever; };
  if (std::ranges::any_of(scenario.faults, hangs)) {
    limits.after_faults += cluster::SupervisorOptions().loading_limit;
  }
  return run_toy(scenario, draw_toy(scenario), stacks, reached, limits);
}

std::string tell(std::uint64_t seed) {
  const Scenario scenario = draw_scenario(seed);
  return describe(scenario) + "\n  " + describe(draw_toy(scenario));
}

void expect_all_reached(const Reached& reached, const SwitchStats& stats) {
  EXPECT_GT(reached.answered, 0u);
  EXPECT_GT(reached.cancelled, 0u);
  EXPECT_GT(reached.refused, 0u);
  EXPECT_GT(reached.lost_with_head, 0u);
  EXPECT_GT(reached.failed_short, 0u);
  EXPECT_GT(reached.readmitted, 0u);
  EXPECT_GT(reached.epochs_continued, 0u);
  EXPECT_GT(reached.take_overs, 0u);
  EXPECT_GT(reached.drains, 0u);
  EXPECT_GT(stats.desyncs, 0u);
  EXPECT_GT(stats.connections_ended, 0u);
  EXPECT_GT(stats.stale_dropped, 0u);
  EXPECT_GT(stats.calls_repeated, 0u);
}

void expect_all_covered(const Coverage& coverage) {
  for (std::size_t kind = 0; kind < kFaultKinds; ++kind) {
    for (std::size_t phase = 0; phase < kPhases; ++phase) {
      EXPECT_GE(coverage.fired[kind][phase], kStrikesMin)
          << name_of(static_cast<FaultKind>(kind)) << " in " << name_of(static_cast<Phase>(phase));
    }
  }
}

void add(SwitchStats& sum, const SwitchStats& stats) {
  sum.joins += stats.joins;
  sum.calls_repeated += stats.calls_repeated;
  sum.messages += stats.messages;
  sum.desyncs += stats.desyncs;
  sum.connections_ended += stats.connections_ended;
  sum.stale_dropped += stats.stale_dropped;
}

TEST(ClusterSim, SameBitsAsOneMachineUnderAnyFaults) {
  const auto only = from_environment("CONCLAVE_SIM_SEED");
  const std::uint64_t first = only.value_or(from_environment("CONCLAVE_SIM_FIRST").value_or(0));
  const std::uint64_t n_seeds =
      only ? 1 : from_environment("CONCLAVE_SIM_SEEDS").value_or(kSeedsDefault);
  sim::FiberStacks stacks;
  Reached reached;
  Coverage coverage;
  SwitchStats data_plane;
  for (std::uint64_t seed = first; seed < first + n_seeds; ++seed) {
    if (only) std::cout << tell(seed) << '\n';
    const Outcome outcome = run_seed(seed, stacks, reached);
    ASSERT_FALSE(outcome.failure.has_value())
        << *outcome.failure << "\nreplay with: CONCLAVE_SIM_SEED=" << seed << " cluster_sim\n"
        << tell(seed);
    ASSERT_EQ(stacks.in_use(), 0u) << seed;
    if (seed % kRunTwiceEvery == 0) {
      Reached again;
      ASSERT_EQ(run_seed(seed, stacks, again).trace, outcome.trace)
          << "two histories of seed " << seed;
    }
    coverage.add(outcome.coverage);
    add(data_plane, outcome.data_plane);
    if (only) std::cout << "ended after_ms=" << seconds(outcome.took) * 1e3 << '\n';
  }
  std::cout << coverage.table() << '\n';
  if (n_seeds < kSeedsForCoverage) return;
  expect_all_covered(coverage);
  expect_all_reached(reached, data_plane);
}

}  // namespace
}  // namespace conclave::cluster_sim
