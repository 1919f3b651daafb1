// What one exchange of partial sums costs. docs/perf-model.md 1.2, docs/design.md 3.
#include "plan/exchange.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>

#include "base/check.h"
#include "plan/plan.h"

namespace conclave::plan {
namespace {

// Links that `pairs` names, by machine: for pools without one link between all.
using Neighbours = std::vector<std::vector<const PairLink*>>;

Neighbours neighbours_of(const Pool& pool) {
  Neighbours neighbours(pool.machines.size());
  for (const PairLink& pair : pool.pairs) {
    neighbours[pair.a].push_back(&pair);
    neighbours[pair.b].push_back(&pair);
  }
  return neighbours;
}

// The quickest chains of links from one machine to all others (Dijkstra); a chain has the sum of
// latencies and the least bandwidth.
std::vector<Link> links_from(const Pool& pool, const Neighbours& neighbours, std::size_t from) {
  constexpr double kFar = std::numeric_limits<double>::infinity();
  std::vector<Link> best(pool.machines.size());
  for (Link& link : best) link.latency_seconds = kFar;
  best[from].latency_seconds = 0.0;
  best[from].bandwidth = kFar;
  using Entry = std::pair<double, std::size_t>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
  queue.push({0.0, from});
  while (!queue.empty()) {
    const auto [latency, at] = queue.top();
    queue.pop();
    if (latency > best[at].latency_seconds) continue;
    for (const PairLink* pair : neighbours[at]) {
      const std::size_t to = pair->a == at ? pair->b : pair->a;
      if (latency + pair->link.latency_seconds >= best[to].latency_seconds) continue;
      Link link = pair->link;
      link.latency_seconds += latency;
      link.jitter_seconds += best[at].jitter_seconds;
      link.bandwidth = std::min(link.bandwidth, best[at].bandwidth);
      best[to] = link;
      queue.push({link.latency_seconds, to});
    }
  }
  return best;
}

// Directed cables share the messages of an all-to-all; how many pass the busiest one.
double messages_per_cable(Topology topology, double n) {
  switch (topology) {
    case Topology::kSwitch:
      return n - 1.0;
    case Topology::kMesh:
      return 1.0;
    case Topology::kRing:
      // n (n - 1) messages over about n / 4 hops each, on 2 n directed cables.
      return std::max((n - 1.0) / 2.0, n * n / 8.0);
  }
  CHECK(false);
  return n;
}

// One hop with everything, or reduce-scatter and all-gather with 1/n each; the engine switches
// where the second becomes shorter.
struct OneShot {
  double direct = 0.0;
  double scattered = 0.0;
};

OneShot one_shot(const Cluster& cluster, const Link& link, std::size_t n_ranks, double bytes) {
  const ExchangeCost& cost = cluster.software.exchange[static_cast<std::size_t>(link.transport)];
  const double n = static_cast<double>(n_ranks);
  const double hops =
      cluster.pool.topology == Topology::kRing ? std::max(1.0, std::floor(n / 2.0)) : 1.0;
  const double start =
      link.latency_seconds * hops + cost.overhead_seconds + cost.per_peer_seconds * (n - 1.0);
  const double cable = messages_per_cable(cluster.pool.topology, n) / link.bandwidth;
  return {.direct = start + bytes * cable, .scattered = 2.0 * start + 2.0 * bytes / n * cable};
}

}  // namespace

std::vector<Link> links_between(const Pool& pool, std::span<const std::size_t> machines) {
  std::vector<Link> links;
  if (machines.size() < 2) return links;
  if (pool.link) links.push_back(*pool.link);
  if (pool.pairs.empty()) return links;
  std::vector<bool> member(pool.machines.size(), false);
  for (const std::size_t machine : machines) member[machine] = true;
  if (pool.link) {
    for (const PairLink& pair : pool.pairs) {
      if (member[pair.a] && member[pair.b]) links.push_back(pair.link);
    }
    const std::size_t all_pairs = machines.size() * (machines.size() - 1) / 2;
    if (links.size() - 1 == all_pairs) links.erase(links.begin());  // no pair is left to it
    return links;
  }
  const Neighbours neighbours = neighbours_of(pool);
  for (const std::size_t from : machines) {
    const std::vector<Link> best = links_from(pool, neighbours, from);
    for (const std::size_t to : machines) {
      if (to > from) links.push_back(best[to]);
    }
  }
  return links;
}

double link_exchange_seconds(const Cluster& cluster, const Link& link, std::size_t n_ranks,
                             double bytes) {
  const ExchangeCost& cost = cluster.software.exchange[static_cast<std::size_t>(link.transport)];
  if (cost.collective == Collective::kRing) {
    const double n = static_cast<double>(n_ranks);
    const double step = link.latency_seconds + cost.overhead_seconds + bytes / n / link.bandwidth;
    return 2.0 * (n - 1.0) * step + cost.per_peer_seconds * (n - 1.0);
  }
  const OneShot ways = one_shot(cluster, link, n_ranks, bytes);
  return std::min(ways.direct, ways.scattered);
}

bool exchange_scatters(const Cluster& cluster, const Link& link, std::size_t n_ranks,
                       double bytes) {
  const OneShot ways = one_shot(cluster, link, n_ranks, bytes);
  return ways.scattered < ways.direct;
}

double exchange_seconds(const Cluster& cluster, std::span<const std::size_t> machines,
                        double elements) {
  const double bytes = elements * cluster.software.wire_bytes_per_element;
  double slowest = 0.0;
  for (const Link& link : links_between(cluster.pool, machines)) {
    slowest = std::max(slowest, link_exchange_seconds(cluster, link, machines.size(), bytes));
  }
  return slowest;
}

double hop_seconds(const Cluster& cluster, std::span<const std::size_t> machines, double elements) {
  const double bytes = elements * cluster.software.wire_bytes_per_element;
  double slowest = 0.0;
  for (const Link& link : links_between(cluster.pool, machines)) {
    slowest = std::max(slowest, link.latency_seconds + bytes / link.bandwidth);
  }
  return slowest + cluster.software.hop_seconds;
}

double jitter_seconds(const Cluster& cluster, std::span<const std::size_t> machines) {
  double worst = 0.0;
  for (const Link& link : links_between(cluster.pool, machines)) {
    worst = std::max(worst, link.jitter_seconds);
  }
  return worst;
}

}  // namespace conclave::plan
