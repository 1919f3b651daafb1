// Which experts the rows of one step choose, and which ranks read them. docs/perf-model.md 3.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/placement.h"
#include "sim/sim.h"

namespace conclave::plan {

class ExpertDraws {
 public:
  // `read_seconds[rank]`: what one more expert costs there, to choose among copies.
  ExpertDraws(const Cluster& cluster, const Placement& placement, const sim::World& world,
              std::vector<double> read_seconds);

  // Distinct experts of `layer` that each rank reads for token `token`, [n_ranks]. A pure function
  // of the seed, token and layer; the reference holds until the next call.
  const std::vector<std::size_t>& read_by_rank(std::size_t token, std::size_t layer);

 private:
  using Ranks = std::vector<std::uint16_t>;
  std::vector<Ranks> deal_experts(const Placement& placement, sim::RandomStream random) const;
  void choose(sim::RandomStream& random, std::vector<std::size_t>& chosen);
  std::vector<std::uint8_t> experts_used(std::size_t token, std::size_t layer);

  const Cluster& cluster_;
  std::vector<double> read_seconds_;
  sim::RandomStream random_;
  std::vector<double> popularity_;           // [n_experts], cumulative; ends in 1
  std::vector<std::vector<Ranks>> holders_;  // [layer][expert]
  std::vector<std::size_t> count_;           // of the token and layer below
  std::size_t token_ = SIZE_MAX;
  std::size_t layer_ = SIZE_MAX;
};

}  // namespace conclave::plan
