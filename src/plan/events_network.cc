#include "plan/events_network.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "plan/exchange.h"

namespace conclave::plan {
namespace {

// [n][n]: of each pair of ranks; chains of links where a pair has none of its own.
std::vector<Link> links_of(const Pool& pool, const Placement& placement) {
  const std::size_t n = placement.ranks.size();
  std::vector<Link> links(n * n, pool.link.value_or(Link{}));
  const auto set = [&](std::size_t a, std::size_t b, const Link& link) {
    links[a * n + b] = link;
    links[b * n + a] = link;
  };
  std::vector<std::size_t> machines;
  std::unordered_map<std::size_t, std::size_t> rank_of;
  for (std::size_t r = 0; r < n; ++r) {
    machines.push_back(placement.ranks[r].machine);
    rank_of[machines[r]] = r;
  }
  if (pool.link) {
    for (const PairLink& pair : pool.pairs) {
      const auto a = rank_of.find(pair.a);
      const auto b = rank_of.find(pair.b);
      if (a != rank_of.end() && b != rank_of.end()) set(a->second, b->second, pair.link);
    }
    return links;
  }
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      const std::size_t pair[] = {machines[a], machines[b]};
      set(a, b, links_between(pool, pair).front());
    }
  }
  return links;
}

sim::LinkModel model_of(const Link& link, bool jitter) {
  return {.latency = sim::from_seconds(link.latency_seconds),
          .jitter_mean = sim::from_seconds(jitter ? link.jitter_seconds : 0.0),
          .bandwidth = link.bandwidth};
}

}  // namespace

RankNetwork::RankNetwork(sim::World& world, const Cluster& cluster, const Placement& placement,
                         bool jitter)
    : cluster_(cluster),
      n_(placement.ranks.size()),
      ring_(cluster.pool.topology == Topology::kRing && n_ > 3),
      links_(links_of(cluster.pool, placement)),
      network_(world,
               {.n_nodes = n_,
                .cabling = cluster.pool.topology == Topology::kSwitch ? sim::Cabling::kPerNode
                                                                      : sim::Cabling::kPerPair}) {
  for (std::size_t a = 0; a < n_; ++a) {
    for (std::size_t b = 0; b < n_; ++b) {
      if (a != b) network_.set_link(a, b, model_of(link(a, b), jitter));
    }
  }
}

const ExchangeCost& RankNetwork::cost(std::size_t a, std::size_t b) const {
  return cluster_.software.exchange[static_cast<std::size_t>(link(a, b).transport)];
}

Duration RankNetwork::overhead(std::size_t from, std::size_t n_peers) const {
  double exchange = 0.0;
  double per_peer = 0.0;
  for (std::size_t to = 0; to < n_; ++to) {
    if (to == from) continue;
    exchange = std::max(exchange, cost(from, to).overhead_seconds);
    per_peer = std::max(per_peer, cost(from, to).per_peer_seconds);
  }
  return sim::from_seconds(exchange + per_peer * static_cast<double>(n_peers));
}

void RankNetwork::send(std::size_t from, std::size_t to, double bytes, sim::Callback on_arrival) {
  const auto whole = static_cast<std::uint64_t>(std::llround(bytes));
  if (!ring_) {
    network_.send(from, to, whole, std::move(on_arrival));
    return;
  }
  const std::size_t up = (to + n_ - from) % n_;
  // The rank opposite is as far both ways: odd ranks go down, so that cables share alike.
  const bool upward = 2 * up < n_ || (2 * up == n_ && from % 2 == 0);
  forward(from, to, upward, whole, std::move(on_arrival));
}

void RankNetwork::forward(std::size_t at, std::size_t to, bool upward, std::uint64_t bytes,
                          sim::Callback on_arrival) {
  std::size_t next = at;
  do {
    next = (next + (upward ? 1 : n_ - 1)) % n_;
  } while (next != to && !network_.up(next));
  if (next == to) {
    network_.send(at, to, bytes, std::move(on_arrival));
    return;
  }
  network_.send(at, next, bytes, [this, next, to, upward, bytes, done = std::move(on_arrival)] {
    forward(next, to, upward, bytes, done);
  });
}

}  // namespace conclave::plan
