#include <algorithm>
#include <utility>

#include "base/check.h"
#include "sim/sim.h"

namespace conclave::sim {
namespace {

// Each chance of a message has its own stream, so that a new kind of fault moves none of the old.
enum Chance : std::uint64_t { kLoss, kDuplication, kReordering, kJitter, kLate, kSecondCopy };

bool is_probability(double p) { return p >= 0.0 && p <= 1.0; }

void check_link(const LinkModel& link) {
  CHECK(link.latency >= Duration::zero() && link.jitter_mean >= Duration::zero());
  CHECK(link.reorder_mean >= Duration::zero() && link.bandwidth >= 0.0);
  CHECK(is_probability(link.loss) && is_probability(link.duplication));
  CHECK(is_probability(link.reordering));
}

}  // namespace

Network::Network(World& world, const NetworkOptions& options)
    : world_(world),
      cabling_(options.cabling),
      default_link_(options.link),
      chances_(world.stream("network")),
      nodes_(options.n_nodes) {
  CHECK(options.n_nodes > 0 && options.n_nodes <= kNodesMax);
  check_link(options.link);
}

Network::Node& Network::at(std::size_t node) {
  CHECK(node < nodes_.size());
  return nodes_[node];
}

const Network::Node& Network::at(std::size_t node) const {
  CHECK(node < nodes_.size());
  return nodes_[node];
}

std::uint64_t Network::key_of(std::size_t from, std::size_t to) const {
  CHECK(from < nodes_.size() && to < nodes_.size() && from != to);
  return static_cast<std::uint64_t>(from) * kNodesMax + to;
}

Network::Direction& Network::direction(std::size_t from, std::size_t to) {
  const auto [it, added] = directions_.try_emplace(key_of(from, to));
  if (added) it->second.link = default_link_;
  return it->second;
}

void Network::set_link(std::size_t from, std::size_t to, const LinkModel& link) {
  check_link(link);
  direction(from, to).link = link;
}

Time Network::leaves_cable(std::size_t from, std::size_t to, std::uint64_t bytes,
                           const LinkModel& link) {
  if (link.bandwidth == 0.0) return world_.now();
  Time& free_at = cable_free_[cabling_ == Cabling::kPerNode ? from : key_of(from, to)];
  free_at =
      std::max(free_at, world_.now()) + from_seconds(static_cast<double>(bytes) / link.bandwidth);
  return free_at;
}

void Network::send(std::size_t from, std::size_t to, std::uint64_t bytes, Callback on_arrival) {
  CHECK(at(from).up);
  Direction& way = direction(from, to);
  const LinkModel& link = way.link;
  const RandomStream message = chances_.child(key_of(from, to)).child(way.n_sent++);
  const auto chance = [&](Chance kind, double p) { return message.child(kind).chance(p); };
  const auto delay = [&](Chance kind, Duration mean) {
    return message.child(kind).exponential(mean);
  };

  ++stats_.sent;
  stats_.sent_bytes += bytes;
  Time arrival = leaves_cable(from, to, bytes, link) + link.latency;
  arrival += delay(kJitter, link.jitter_mean);
  if (way.cut) {
    ++stats_.cut;
    return;
  }
  if (!at(to).up) {
    ++stats_.to_dead;
    return;
  }
  if (chance(kLoss, link.loss)) {
    ++stats_.lost;
    return;
  }
  if (chance(kReordering, link.reordering)) {
    arrival += delay(kLate, link.reorder_mean);
  } else {
    arrival = std::max(arrival, way.last_arrival);
    way.last_arrival = arrival;
  }
  if (chance(kDuplication, link.duplication)) {
    ++stats_.duplicated;
    deliver_at(arrival + delay(kSecondCopy, link.reorder_mean), from, to, on_arrival);
  }
  deliver_at(arrival, from, to, std::move(on_arrival));
}

void Network::deliver_at(Time arrival, std::size_t from, std::size_t to, Callback on_arrival) {
  const std::uint64_t incarnation = at(to).incarnation;
  world_.schedule_at(arrival, [this, from, to, incarnation, on_arrival = std::move(on_arrival)] {
    if (direction(from, to).cut) {
      ++stats_.cut;
      return;
    }
    world_.record(key_of(from, to));
    arrive(to, incarnation, 0, on_arrival);
  });
}

void Network::arrive(std::size_t node, std::uint64_t incarnation, TimerId timer,
                     const Callback& callback) {
  Node& n = at(node);
  if (!n.up || n.incarnation != incarnation) {
    if (timer == 0) ++stats_.to_dead;
    timers_.erase(timer);
    return;
  }
  // What is held goes first, also between `unfreeze` and run_held.
  if (!n.frozen && n.held.empty()) {
    run(timer, callback);
    return;
  }
  if (timer == 0) {
    if (n.n_messages_held == kMessagesHeldMax) {
      ++stats_.overflowed;
      return;
    }
    ++n.n_messages_held;
  }
  n.held.push_back({timer, callback});
}

void Network::run(TimerId timer, const Callback& callback) {
  if (timer == 0) {
    ++stats_.delivered;
  } else if (timers_.erase(timer) == 0) {
    return;  // cancelled while its node was frozen
  }
  callback();
}

void Network::run_held(std::size_t node) {
  Node& n = at(node);
  // A callback may freeze or crash its own node.
  while (!n.frozen && !n.held.empty()) {
    const Held held = std::move(n.held.front());
    n.held.pop_front();
    if (held.timer == 0) --n.n_messages_held;
    run(held.timer, held.callback);
  }
}

void Network::cut(std::size_t from, std::size_t to) { direction(from, to).cut = true; }

void Network::heal(std::size_t from, std::size_t to) { direction(from, to).cut = false; }

void Network::crash(std::size_t node) {
  Node& n = at(node);
  CHECK(n.up);
  if (n.frozen) unfreeze(node);
  for (const Held& held : n.held) timers_.erase(held.timer);
  stats_.to_dead += std::exchange(n.n_messages_held, 0);
  n.held.clear();
  n.up = false;
}

void Network::restart(std::size_t node) {
  Node& n = at(node);
  CHECK(!n.up);
  n.up = true;
  ++n.incarnation;
}

void Network::freeze(std::size_t node) {
  Node& n = at(node);
  CHECK(n.up && !n.frozen);
  n.frozen = true;
  n.frozen_since = world_.now();
}

void Network::unfreeze(std::size_t node) {
  Node& n = at(node);
  CHECK(n.frozen);
  n.frozen = false;
  n.frozen_before += world_.now() - n.frozen_since;
  // As an event of its own: the caller's code does not run inside the node's.
  world_.schedule_at(world_.now(), [this, node] { run_held(node); });
}

void Network::set_slow_factor(std::size_t node, double factor) {
  CHECK(factor > 0.0);
  at(node).slow_factor = factor;
}

Network::TimerId Network::after(std::size_t node, Duration delay, Callback callback) {
  CHECK(at(node).up);
  const TimerId timer = next_timer_++;
  const std::uint64_t incarnation = at(node).incarnation;
  timers_[timer] = world_.schedule_after(
      delay, [this, node, incarnation, timer, callback = std::move(callback)] {
        arrive(node, incarnation, timer, callback);
      });
  return timer;
}

bool Network::cancel(TimerId timer) {
  const auto it = timers_.find(timer);
  if (it == timers_.end()) return false;
  world_.cancel(it->second);
  timers_.erase(it);
  return true;
}

void Network::compute(std::size_t node, Duration duration, Callback callback) {
  const double slow_factor = at(node).slow_factor;
  const Duration slowed =
      slow_factor == 1.0 ? duration : from_seconds(seconds(duration) * slow_factor);
  work(node, world_.now() + slowed, std::move(callback));
}

void Network::work(std::size_t node, Time end, Callback callback) {
  const Duration frozen_at_start = frozen_for(node);
  after(node, end - world_.now(),
        [this, node, end, frozen_at_start, callback = std::move(callback)] {
          const Time stretched = end + (frozen_for(node) - frozen_at_start);
          if (stretched > world_.now()) {
            work(node, stretched, callback);
          } else {
            callback();
          }
        });
}

Duration Network::frozen_for(std::size_t node) const {
  const Node& n = at(node);
  return n.frozen ? n.frozen_before + (world_.now() - n.frozen_since) : n.frozen_before;
}

}  // namespace conclave::sim
