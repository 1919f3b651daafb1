// The ranks of a placement as nodes of a simulated network.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/placement.h"
#include "sim/sim.h"

namespace conclave::plan {

class RankNetwork {
 public:
  RankNetwork(sim::World& world, const Cluster& cluster, const Placement& placement, bool jitter);

  sim::Network& nodes() { return network_; }
  // On a ring the message goes from neighbour to neighbour, the shorter way; a rank that has
  // crashed is passed by, since forwarding is the machine's and not the program's.
  void send(std::size_t from, std::size_t to, double bytes, sim::Callback on_arrival);
  // What the program spends before messages of `from` to `n_peers` peers leave.
  Duration overhead(std::size_t from, std::size_t n_peers) const;

  const Link& link(std::size_t a, std::size_t b) const { return links_[a * n_ + b]; }
  const ExchangeCost& cost(std::size_t a, std::size_t b) const;

 private:
  void forward(std::size_t at, std::size_t to, bool upward, std::uint64_t bytes,
               sim::Callback on_arrival);

  const Cluster& cluster_;
  std::size_t n_;
  bool ring_;
  std::vector<Link> links_;  // [n][n]
  sim::Network network_;
};

}  // namespace conclave::plan
