// Scenarios of a pool that runs the toy model of engine/integer_backend.h.
#pragma once

#include "sim_pool.h"

namespace conclave::cluster_sim {

struct ToyOptions {
  // Low bits of sums show in the tokens, which then depend on the layout; else every division gives
  // the same.
  bool rounding = false;
  std::size_t cover_losses = 1;
  bool settles = false;
  std::vector<std::size_t> rooms;  // [node]: units of the model's kToyUnits that fit
  SimTimes times;
  std::uint64_t seed = 0;
};
inline constexpr std::size_t kToyUnits = 8;

// What a scenario leaves open, drawn from its seed.
ToyOptions draw_toy(const Scenario& scenario);
std::string describe(const ToyOptions& options);

Outcome run_toy(const Scenario& scenario, const ToyOptions& options, sim::FiberStacks& stacks,
                Reached& reached, const RunLimits& limits = {});

}  // namespace conclave::cluster_sim
