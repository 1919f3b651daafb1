// A small deterministic world: a virtual clock, an event queue and a seeded network.
//
//   sim::World world(seed);
//   sim::Network network(world, {.n_nodes = 3, .link = {.latency =
//   std::chrono::microseconds(50)}}); network.send(0, 1, 4096, [&] { ... });   // runs at node 1
//   when the message is there network.after(1, timeout, [&] { ... });  // a timer of node 1:
//   freezes and dies with it world.run_until_idle(1'000'000);
//
// It serves the planner's event-by-event prediction and the cluster's fault tests. The same seed
// and the same calls give the same history, to the nanosecond, and so the same `World::trace()`.
//
// Threads: none; everything runs on the caller's. Ownership: a Network borrows its World, and what
// callbacks capture must live as long as the World is run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "sim/fiber.h"

namespace conclave::sim {

using Callback = std::function<void()>;

// A World that has more to do than this is in a loop: CHECKed.
inline constexpr std::size_t kEventsPendingMax = std::size_t{1} << 20;
// Messages that wait at one frozen node; further ones are lost, as at a full socket.
inline constexpr std::size_t kMessagesHeldMax = std::size_t{1} << 16;
inline constexpr std::size_t kNodesMax = std::size_t{1} << 14;

// Rounded to the nearest nanosecond.
Duration from_seconds(double seconds);

// A value: the k-th number is a pure function of the key and k, and children are independent
// streams. Give each purpose its own child; then one draw more here shifts no draw elsewhere.
class RandomStream {
 public:
  explicit constexpr RandomStream(std::uint64_t key) : key_(key) {}
  RandomStream child(std::uint64_t index) const;

  std::uint64_t next();
  double uniform();                     // in (0, 1)
  std::size_t below(std::size_t end);   // in [0, end)
  bool chance(double probability);      // draws nothing when it is 0
  Duration exponential(Duration mean);  // draws nothing when it is 0
  double normal();                      // mean 0, standard deviation 1

 private:
  std::uint64_t key_;
  std::uint64_t count_ = 0;
};

struct EventId {
  std::uint64_t sequence = 0;
  std::size_t slot = 0;
};

enum class Stop : std::uint8_t {
  kIdle,    // nothing is left to do
  kTime,    // the next event is later than asked for
  kEvents,  // the limit on events was reached: time stands at the last one
};

class World final : public Clock {
 public:
  explicit World(std::uint64_t seed) : seed_(seed) {}
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Time now() const override { return now_; }
  // Events of one time run in the order in which they were scheduled. `at` is not in the past.
  EventId schedule_at(Time at, Callback callback);
  EventId schedule_after(Duration delay, Callback callback);
  // False when it has run, or was cancelled, already.
  bool cancel(EventId id);

  // False when there is none.
  bool run_one();
  // Runs what is due up to `end`, at most `events_max` events; then now() is `end`, unless the
  // limit on events stopped it.
  Stop run_until(Time end, std::size_t events_max);
  // now() is then the time of the last event.
  Stop run_until_idle(std::size_t events_max);

  // The random numbers of one purpose.
  RandomStream stream(std::string_view purpose) const;

  // A hash of every event's time and of what was recorded: equal for equal histories.
  std::uint64_t trace() const { return trace_; }
  void record(std::uint64_t value);
  std::size_t pending() const { return queue_.size() - n_cancelled_; }
  std::uint64_t events_run() const { return n_run_; }

 private:
  struct Entry {
    Time at;
    std::uint64_t sequence;
    std::size_t slot;
  };
  struct Slot {
    std::uint64_t sequence = 0;  // 0: free
    Callback callback;
  };
  static bool later(const Entry& a, const Entry& b);
  bool cancelled(const Entry& entry) const { return slots_[entry.slot].sequence != entry.sequence; }
  // The next event that was not cancelled, or null.
  const Entry* next();
  void pop();
  void compact();

  std::uint64_t seed_;
  std::uint64_t trace_ = 0;
  Time now_{};
  std::uint64_t next_sequence_ = 1;
  std::uint64_t n_run_ = 0;
  std::size_t n_cancelled_ = 0;  // still in queue_
  std::vector<Entry> queue_;     // a heap, the earliest at the front
  std::vector<Slot> slots_;
  std::vector<std::size_t> free_slots_;
};

// One direction between two nodes.
struct LinkModel {
  Duration latency{};
  Duration jitter_mean{};  // of an exponential on top of each message's latency
  double bandwidth = 0.0;  // bytes per second; 0: messages take no time to send
  double loss = 0.0;       // probabilities, per message
  double duplication = 0.0;
  double reordering = 0.0;
  // A reordered message, and the second copy of a doubled one, comes later by an exponential of
  // this mean and lets others pass. All other messages of a direction arrive in the order of
  // sending.
  Duration reorder_mean = std::chrono::milliseconds(1);
};

// What messages of one sender share: bytes leave a cable one message after the other.
enum class Cabling : std::uint8_t {
  kPerNode,  // a switch: one cable per node
  kPerPair,  // a mesh: one cable per pair of nodes
};

struct NetworkOptions {
  std::size_t n_nodes = 0;
  LinkModel link{};  // of all pairs, until set_link
  Cabling cabling = Cabling::kPerNode;
};

struct NetworkStats {
  std::uint64_t sent = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t delivered = 0;
  std::uint64_t duplicated = 0;
  std::uint64_t lost = 0;     // by chance
  std::uint64_t cut = 0;      // by a partition
  std::uint64_t to_dead = 0;  // by a crash
  std::uint64_t overflowed = 0;
};

class Network {
 public:
  Network(World& world, const NetworkOptions& options);
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  void set_link(std::size_t from, std::size_t to, const LinkModel& link);
  // `on_arrival` runs at `to`, once, never or twice. A sender that crashes later loses nothing that
  // it has sent. `from` must be up.
  void send(std::size_t from, std::size_t to, std::uint64_t bytes, Callback on_arrival);

  // One direction; messages that are under way are lost too.
  void cut(std::size_t from, std::size_t to);
  void heal(std::size_t from, std::size_t to);

  // All timers, computations and messages to this life of the node vanish, those that would arrive
  // after a restart included.
  void crash(std::size_t node);
  void restart(std::size_t node);
  bool up(std::size_t node) const { return at(node).up; }
  std::uint64_t incarnation(std::size_t node) const { return at(node).incarnation; }

  // A stopped process: messages and timers wait, and run in order when it goes on.
  void freeze(std::size_t node);
  void unfreeze(std::size_t node);
  bool frozen(std::size_t node) const { return at(node).frozen; }
  // The node's computations take this many times as long, from the next one on.
  void set_slow_factor(std::size_t node, double factor);

  using TimerId = std::uint64_t;
  TimerId after(std::size_t node, Duration delay, Callback callback);
  // False when it has run already.
  bool cancel(TimerId timer);
  // Work of the node: slowed by its factor, and stretched by the time that it is frozen.
  void compute(std::size_t node, Duration duration, Callback callback);

  std::size_t n_nodes() const { return nodes_.size(); }
  const NetworkStats& stats() const { return stats_; }

 private:
  struct Held {
    TimerId timer = 0;  // 0: a message
    Callback callback;
  };
  struct Node {
    bool up = true;
    bool frozen = false;
    std::uint64_t incarnation = 0;
    double slow_factor = 1.0;
    Duration frozen_before{};  // in earlier freezes
    Time frozen_since{};
    std::size_t n_messages_held = 0;
    std::deque<Held> held;  // messages at most kMessagesHeldMax, timers what the World holds
  };
  struct Direction {
    LinkModel link;
    bool cut = false;
    std::uint64_t n_sent = 0;
    Time last_arrival{};
  };

  Node& at(std::size_t node);
  const Node& at(std::size_t node) const;
  std::uint64_t key_of(std::size_t from, std::size_t to) const;
  Direction& direction(std::size_t from, std::size_t to);
  Time leaves_cable(std::size_t from, std::size_t to, std::uint64_t bytes, const LinkModel& link);
  void deliver_at(Time arrival, std::size_t from, std::size_t to, Callback on_arrival);
  void arrive(std::size_t node, std::uint64_t incarnation, TimerId timer, const Callback& callback);
  void run(TimerId timer, const Callback& callback);
  void run_held(std::size_t node);
  void work(std::size_t node, Time end, Callback callback);
  Duration frozen_for(std::size_t node) const;

  World& world_;
  Cabling cabling_;
  LinkModel default_link_;
  RandomStream chances_;
  std::vector<Node> nodes_;
  std::unordered_map<std::uint64_t, Direction> directions_;  // by key_of; never iterated
  std::unordered_map<std::uint64_t, Time> cable_free_;       // by node or key_of; never iterated
  std::unordered_map<TimerId, EventId> timers_;              // not yet run; never iterated
  TimerId next_timer_ = 1;
  NetworkStats stats_;
};

}  // namespace conclave::sim
