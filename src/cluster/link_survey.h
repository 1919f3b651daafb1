// Which links are measured now, which wait, and which have got no answer in time. Sans-I/O.
//
//   survey.add(pairs);
//   for (const LinkSurvey::Ask& ask : survey.next(now)) tell ask.pair.from to call ask.pair.to
//   on its answer: survey.on_answer(id);   every now and then: survey.on_tick(now);
//
// No machine takes part in two measurements at once: they would share its cable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "cluster/layout.h"

namespace conclave::cluster {

class LinkSurvey {
 public:
  struct Pair {
    NodeId from;
    NodeId to;
    bool operator==(const Pair&) const = default;
  };
  struct Ask {
    std::uint64_t id = 0;  // never used twice, never 0
    Pair pair;
  };
  // A call that nobody answers takes its 2 s, and so does a large message that is lost.
  static constexpr Duration kPatience = std::chrono::seconds(8);

  // A pair that waits or is under way is not added a second time.
  void add(std::span<const Pair> pairs);
  // May begin now, and count as begun.
  std::vector<Ask> next(Time now);
  // What is measured under this id; nullopt: nobody waits for its answer any more.
  std::optional<Pair> find(std::uint64_t id) const;
  // As find(), and it is no longer under way.
  std::optional<Pair> on_answer(std::uint64_t id);
  // Those whose time is over. They are dropped.
  std::vector<Pair> on_tick(Time now);
  // Drops what this machine takes part in.
  void drop(NodeId node);

  std::size_t left() const { return waiting_.size() + under_way_.size(); }
  std::size_t under_way() const { return under_way_.size(); }

 private:
  struct Begun {
    Pair pair;
    Time deadline{};
  };
  bool is_busy(NodeId node) const;

  std::deque<Pair> waiting_;
  std::map<std::uint64_t, Begun> under_way_;
  std::uint64_t next_id_ = 1;
};

}  // namespace conclave::cluster
