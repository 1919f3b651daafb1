// What is known of the links between the machines of a pool: what each found when it called each
// other. Sans-I/O; link_probe.h measures, link_survey.h says who measures when.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "base/clock.h"
#include "cluster/layout.h"

namespace conclave::cluster {

// One machine calls another. Seconds, bytes; 0 or empty where it is not known.
struct LinkMeasurement {
  std::string error{};               // why it could not be measured; empty: it was
  double connect_seconds = 0.0;      // until both have proved their keys
  double rtt_seconds = 0.0;          // of a small message and its answer, median
  double rtt_slow_seconds = 0.0;     // 95 % are faster
  double bandwidth = 0.0;            // bytes per second of what the caller got
  double clock_ahead_seconds = 0.0;  // of the called machine's clock
  std::uint32_t path_mtu = 0;
  std::string interface {};  // of the caller: "eth0"
  std::uint32_t interface_mtu = 0;
  std::uint32_t interface_mbit = 0;  // what the card says
  bool wireless = false;
  bool operator==(const LinkMeasurement&) const = default;
};

struct MeasuredLink {
  LinkMeasurement found;
  Time at{};
};

class LinkTable {
 public:
  using Pair = std::pair<NodeId, NodeId>;  // who called, and whom

  void set(Time now, NodeId from, NodeId to, LinkMeasurement found);
  void forget(NodeId node);
  // nullptr: not measured. Valid until the next change.
  const MeasuredLink* find(NodeId from, NodeId to) const;
  const std::map<Pair, MeasuredLink>& all() const { return links_; }

 private:
  std::map<Pair, MeasuredLink> links_;
};

}  // namespace conclave::cluster
