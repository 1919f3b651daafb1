#include "cluster/link_table.h"

#include <algorithm>

#include "base/check.h"

namespace conclave::cluster {
namespace {

// Of the time between a small message and its answer, what two programs take: woken twice, TLS four
// times. Seen on a machine that calls itself; the planner adds its own figure for the program.
constexpr double kProgramSeconds = 50e-6;
// Below these no cable goes; the planner does not take 0.
constexpr double kLatencyMin = 1e-6;
constexpr double kBandwidthMin = 1e3;
// Where latency alone was measured.
constexpr double kBandwidthUnknown = 1e7;
// An exponential's 95 % lie 2.3 means above its median.
constexpr double kMeansToSlow = 2.3;

}  // namespace

void LinkTable::set(Time now, NodeId from, NodeId to, LinkMeasurement found) {
  links_[{from, to}] = {std::move(found), now};
}

void LinkTable::forget(NodeId node) {
  std::erase_if(links_, [node](const auto& item) {
    return item.first.first == node || item.first.second == node;
  });
}

const MeasuredLink* LinkTable::find(NodeId from, NodeId to) const {
  const auto it = links_.find({from, to});
  return it == links_.end() ? nullptr : &it->second;
}

plan::Link planned_link(const LinkMeasurement& found) {
  CHECK(found.error.empty());
  plan::Link link;
  link.name = "measured";
  link.title = "measured";
  link.latency_seconds = std::max(kLatencyMin, (found.rtt_seconds - kProgramSeconds) / 2.0);
  link.jitter_seconds =
      std::max(0.0, (found.rtt_slow_seconds - found.rtt_seconds) / 2.0 / kMeansToSlow);
  link.bandwidth =
      found.bandwidth > 0.0 ? std::max(kBandwidthMin, found.bandwidth) : kBandwidthUnknown;
  return link;
}

std::optional<plan::Link> LinkTable::planned(NodeId a, NodeId b) const {
  std::optional<plan::Link> worse;
  for (const MeasuredLink* link : {find(a, b), find(b, a)}) {
    if (link == nullptr || !link->found.error.empty()) continue;
    const plan::Link one = planned_link(link->found);
    if (!worse) {
      worse = one;
      continue;
    }
    worse->latency_seconds = std::max(worse->latency_seconds, one.latency_seconds);
    worse->jitter_seconds = std::max(worse->jitter_seconds, one.jitter_seconds);
    worse->bandwidth = std::min(worse->bandwidth, one.bandwidth);
  }
  return worse;
}

}  // namespace conclave::cluster
