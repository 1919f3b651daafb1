#include "runner.h"

#include <algorithm>

namespace conclave::cluster_sim {
namespace {

constexpr Duration kSlice = std::chrono::milliseconds(20);  // between two looks at the system

void start_machines(const Scenario& scenario, sim::Network& network, System& system) {
  for (std::size_t node = 0; node < scenario.n_nodes; ++node) {
    if (scenario.absent[node]) {
      network.crash(node);
    } else {
      system.start(node);
    }
  }
}

Time last_submission(const Scenario& scenario) {
  Time last{};
  for (const ScenarioRequest& request : scenario.requests) last = std::max(last, request.at);
  return last;
}

}  // namespace

Outcome run(const Scenario& scenario, const MakeSystem& make_system, sim::FiberStacks& stacks,
            const RunLimits& limits, const std::function<void(const System&)>& look) {
  Outcome outcome;
  sim::World world(scenario.seed);
  sim::Network network(
      world, {.n_nodes = scenario.n_nodes, .link = scenario.link, .cabling = scenario.cabling});
  SimSwitch data_plane(world, network);
  FaultInjector* faults = nullptr;
  sim::RandomStream ids = world.stream("ids");
  const std::unique_ptr<System> system = make_system(
      {.machinery = {world, network, stacks},
       .data_plane = data_plane,
       .scenario = scenario,
       .reached = [&faults](Phase phase) { return faults != nullptr && faults->reached(phase); },
       .troubled = [&faults](std::size_t n) { return faults != nullptr && faults->troubled(n); },
       .new_id = [&ids] { return ids.next() | 1u; }});
  FaultInjector injector(world, network, data_plane, *system, scenario.faults, scenario.link);
  faults = &injector;
  injector.start(scenario.faults_end);
  for (const ScenarioRequest& request : scenario.requests) {
    world.schedule_at(request.at, [&system, request] { system->submit(request); });
  }
  start_machines(scenario, network, *system);

  const Time idle_from = last_submission(scenario);
  const Time limit = scenario.faults_end + limits.after_faults;
  const auto ended = [&] {
    return system->violation() || (world.now() > idle_from && system->idle());
  };
  bool overrun = false;
  while (!ended() && !overrun && world.now() < limit) {
    overrun = world.run_until(world.now() + kSlice, limits.events) == sim::Stop::kEvents ||
              world.events_run() > limits.events;
  }
  outcome.failure = system->violation();
  if (outcome.failure) {
    *outcome.failure += " at " + std::to_string(seconds(world.now() - Time{})) + " s: ";
    *outcome.failure += system->describe();
  }
  if (!outcome.failure && !ended()) {
    outcome.failure = (overrun ? "too many events by " : "does not end by ") +
                      std::to_string(seconds(world.now() - Time{})) + " s: " + system->describe();
  }
  if (look) look(*system);
  outcome.coverage = injector.coverage();
  outcome.data_plane = data_plane.stats();
  outcome.trace = world.trace();
  outcome.took = world.now() - Time{};
  return outcome;
}

}  // namespace conclave::cluster_sim
