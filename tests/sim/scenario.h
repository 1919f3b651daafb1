// One history to simulate, drawn from a seed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "faults.h"

namespace conclave::cluster_sim {

struct ScenarioRequest {
  Time at{};
  std::size_t prompt_tokens = 0;
  std::size_t answer_tokens = 0;
  std::uint64_t seed = 0;
  Duration cancel_after{};  // zero: never
};

struct Scenario {
  std::uint64_t seed = 0;
  std::size_t n_nodes = 0;   // 1..5; node 0 is the head
  std::vector<bool> absent;  // [n_nodes]: the machine comes by a kJoin only
  sim::LinkModel link;
  sim::Cabling cabling = sim::Cabling::kPerNode;
  std::vector<ScenarioRequest> requests;
  std::vector<Fault> faults;
  // Then all is mended that ever is.
  Time faults_end{};
};

// Faults begin within `faults` and last at most `lasts`: to be of the order of the system's own
// limits, so that some are shorter and some longer than what it notices.
struct ScenarioTimes {
  Duration faults = std::chrono::seconds(6);
  Duration lasts = std::chrono::seconds(6);
};

Scenario draw_scenario(std::uint64_t seed, const ScenarioTimes& times = {});
std::string describe(const Scenario& scenario);

}  // namespace conclave::cluster_sim
