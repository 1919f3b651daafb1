// The head's view of the links of its pool: has them measured when machines come, and anew when
// somebody asks. Sans-I/O: `ask` tells a machine to measure, on_answer() brings what it found.
//
// A measurement fills a cable for some tens of milliseconds. Those that nobody waits for begin only
// when the pool has been idle for a while.
//
// Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "base/clock.h"
#include "cluster/layout.h"
#include "cluster/link_survey.h"
#include "cluster/link_table.h"
#include "cluster/local_checks.h"
#include "wire/wire.h"

namespace conclave::cluster {

class PoolLinks {
 public:
  // Has `from` call `to`, or look at itself alone. What it finds comes to on_answer() under the
  // same id, which may be inside the call.
  using Ask = std::function<void(NodeId from, std::uint64_t id, std::optional<NodeId> to)>;
  // After a machine came: the others hear of it meanwhile.
  static constexpr Duration kSettle = std::chrono::milliseconds(500);
  // After an answer or a load: the next turn of a conversation is often there in a moment.
  static constexpr Duration kIdleFor = std::chrono::seconds(2);
  static constexpr Duration kRetryAfter = std::chrono::seconds(60);  // where there was an error
  static constexpr Duration kChecksTime = std::chrono::seconds(5);

  // A round: every pair both ways and every machine's checks.
  struct Progress {
    std::size_t left = 0;
    std::size_t total = 0;
  };

  explicit PoolLinks(Ask ask) : ask_(std::move(ask)) {}

  // The head is a machine like the others.
  void on_hello(Time now, NodeId node);
  void on_gone(NodeId node);
  void on_answer(Time now, NodeId node, const wire::pb::Measured& answer);
  void on_tick(Time now, bool idle);

  // While one is under way there is no second: its number is returned again. Never 0.
  std::uint64_t begin_round(Time now);
  // nullopt: there was no such round, or a later one has begun.
  std::optional<Progress> progress(std::uint64_t round) const;

  const LinkTable& links() const { return links_; }
  // Of the last round; nullptr: it has not answered.
  const MachineChecks* checks(NodeId node) const;

 private:
  void begin(Time now);
  void finish(Time now, const LinkSurvey::Pair& pair, LinkMeasurement found);
  bool in_round() const { return !round_pairs_.empty() || !round_checks_.empty(); }

  Ask ask_;
  std::set<NodeId> nodes_;
  LinkSurvey survey_;
  LinkTable links_;
  std::map<NodeId, MachineChecks> checks_;
  Time quiet_until_{};
  std::uint64_t round_ = 0;
  std::size_t round_total_ = 0;
  Time round_checks_until_{};
  std::set<LinkTable::Pair> round_pairs_;  // of which nothing is known yet
  std::set<NodeId> round_checks_;
};

}  // namespace conclave::cluster
