// The two ways in which ranks work on a step: side by side, or one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/plan.h"
#include "sim/sim.h"

namespace conclave::plan {

struct EventLog {
  std::vector<double> step_seconds;
  double total_seconds = 0.0;
  double rank_seconds = 0.0;  // of all ranks, while they lived
  double wait_seconds = 0.0;  // of these, spent waiting for others
  std::uint64_t n_messages = 0;
  bool finished = true;
};
EventLog run_lockstep(const Cluster& cluster, const Placement& placement,
                      const EventOptions& options);
EventLog run_pipeline(const Cluster& cluster, const Placement& placement,
                      const EventOptions& options);

// How much longer than usual a rank's n-th piece of work takes. A pure function, so that what one
// rank does shifts no other's luck.
class ComputeNoise {
 public:
  ComputeNoise(const sim::World& world, double deviation)
      : random_(world.stream("compute noise")), deviation_(deviation) {}
  double factor(std::size_t rank, std::size_t n) const;

 private:
  sim::RandomStream random_;
  double deviation_;
};

}  // namespace conclave::plan
