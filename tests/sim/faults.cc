#include "faults.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "base/check.h"

namespace conclave::cluster_sim {
namespace {

using std::chrono::milliseconds;

constexpr std::array<std::string_view, kFaultKinds> kFaultNames{
    "loss",         "duplication", "delay",        "reordering",  "partition",  "one-way",
    "worker-crash", "worker-hang", "node-crash",   "freeze",      "slow-node",  "join",
    "epoch-race",   "between",     "worker-stuck", "agent-crash", "agent-stop", "drain"};
constexpr std::array<std::string_view, kPhases> kPhaseNames{"load", "prefill", "decode", "replan"};

bool on_link(FaultKind kind) {
  return kind == FaultKind::kLoss || kind == FaultKind::kDuplication || kind == FaultKind::kDelay ||
         kind == FaultKind::kReordering;
}

bool cuts(const Fault& fault, std::size_t from, std::size_t to) {
  const bool out = fault.both_ways || !fault.backwards;
  const bool in = fault.both_ways || fault.backwards;
  switch (fault.kind) {
    case FaultKind::kPartition:
      return from == fault.node || to == fault.node;
    case FaultKind::kOneWay:
      return (out && from == fault.node) || (in && to == fault.node);
    case FaultKind::kBetween:
      return (out && from == fault.node && to == fault.other) ||
             (in && from == fault.other && to == fault.node);
    default:
      return false;
  }
}

void worsen(sim::LinkModel& link, const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kLoss:
      link.loss = std::max(link.loss, 0.5 * fault.strength);
      break;
    case FaultKind::kDuplication:
      link.duplication = std::max(link.duplication, 0.5 * fault.strength);
      break;
    case FaultKind::kDelay:
      link.latency += sim::from_seconds(0.05 * fault.strength);
      link.jitter_mean += sim::from_seconds(0.02 * fault.strength);
      break;
    case FaultKind::kReordering:
      link.reordering = std::max(link.reordering, 0.5 * fault.strength);
      link.reorder_mean = milliseconds(5);
      break;
    default:
      CHECK(false);
  }
}

}  // namespace

std::string_view name_of(FaultKind kind) { return kFaultNames[static_cast<std::size_t>(kind)]; }

std::string_view name_of(Phase phase) { return kPhaseNames[static_cast<std::size_t>(phase)]; }

std::string describe(const Fault& fault) {
  std::ostringstream text;
  text << name_of(fault.kind) << " node=" << fault.node;
  if (fault.at_phase) {
    text << " at=" << name_of(fault.phase) << '#' << fault.nth;
  } else {
    text << " at_ms=" << seconds(fault.at - Time{}) * 1e3;
  }
  text << " lasts_ms=" << seconds(fault.lasts) * 1e3 << " strength=" << fault.strength;
  if (fault.kind == FaultKind::kBetween) text << " other=" << fault.other;
  if (fault.backwards) text << " backwards";
  if (fault.both_ways) text << " both-ways";
  if (fault.forever) text << " forever";
  return text.str();
}

void Coverage::add(const Coverage& other) {
  for (std::size_t k = 0; k < kFaultKinds; ++k) {
    for (std::size_t p = 0; p < kPhases; ++p) fired[k][p] += other.fired[k][p];
  }
}

std::string Coverage::table() const {
  std::ostringstream text;
  text << std::left << std::setw(14) << "fault" << std::right;
  for (const std::string_view phase : kPhaseNames) text << std::setw(9) << phase;
  for (std::size_t k = 0; k < kFaultKinds; ++k) {
    text << '\n' << std::left << std::setw(14) << kFaultNames[k] << std::right;
    for (const std::uint64_t n : fired[k]) text << std::setw(9) << n;
  }
  return text.str();
}

FaultInjector::FaultInjector(sim::World& world, sim::Network& network, SimSwitch& data_plane,
                             Machines& machines, std::vector<Fault> faults,
                             const sim::LinkModel& link)
    : world_(world),
      network_(network),
      switch_(data_plane),
      machines_(machines),
      armed_(std::move(faults)),
      link_(link) {}

void FaultInjector::start(Time end) {
  end_ = end;
  const auto waits_for_phase = [](const Fault& f) { return f.at_phase; };
  const auto timed = std::stable_partition(armed_.begin(), armed_.end(), waits_for_phase);
  for (auto fault = timed; fault != armed_.end(); ++fault) {
    world_.schedule_at(fault->at, [this, fault = *fault] { fire(fault); });
  }
  armed_.erase(timed, armed_.end());
}

bool FaultInjector::reached(Phase phase) {
  phase_ = phase;
  const std::size_t nth = n_reached_[static_cast<std::size_t>(phase)]++;
  if (armed_.empty() || world_.now() > end_) return false;
  const auto due = [&](const Fault& f) { return f.phase == phase && f.nth == nth; };
  bool any = false;
  for (const Fault& fault : armed_) {
    if (!due(fault)) continue;
    any = true;
    world_.schedule_at(world_.now(), [this, fault] { fire(fault); });
  }
  std::erase_if(armed_, due);
  return any;
}

void FaultInjector::fire(const Fault& fault) {
  const Phase phase = phase_;
  active_.push_back(fault);
  if (!strike(fault)) {
    active_.pop_back();
    return;
  }
  ++coverage_.fired[static_cast<std::size_t>(fault.kind)][static_cast<std::size_t>(phase)];
  if (!fault.forever) world_.schedule_after(fault.lasts, [this, fault] { mend(fault); });
}

// False: there was nothing to break.
bool FaultInjector::strike(const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kLoss:
    case FaultKind::kDuplication:
    case FaultKind::kDelay:
    case FaultKind::kReordering:
    case FaultKind::kPartition:
    case FaultKind::kOneWay:
    case FaultKind::kBetween:
      set_links();
      return true;
    case FaultKind::kSlowNode:
      network_.set_slow_factor(fault.node, 1.0 + 30.0 * fault.strength);
      return true;
    case FaultKind::kEpochRace:
      switch_.set_late_copies(fault.strength);
      return true;
    case FaultKind::kJoin:
      if (network_.up(fault.node)) return false;
      network_.restart(fault.node);
      machines_.start(fault.node);
      return true;
    case FaultKind::kNodeCrash:
      return crash_node(fault.node);
    default:
      return running(fault.node) && strike_node(fault);
  }
}

bool FaultInjector::strike_node(const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kWorkerCrash:
      return machines_.crash_worker(fault.node);
    case FaultKind::kWorkerHang:
      return machines_.hang_worker(fault.node);
    case FaultKind::kWorkerStuck:
      return machines_.stick_worker(fault.node);
    case FaultKind::kAgentCrash:
      return machines_.crash_agent(fault.node);
    case FaultKind::kAgentStop:
      return machines_.stop_agent(fault.node);
    case FaultKind::kDrain:
      return machines_.drain(fault.node);
    case FaultKind::kFreeze:
      network_.freeze(fault.node);
      return true;
    default:
      return false;
  }
}

void FaultInjector::mend(const Fault& fault) {
  const auto same = [&](const Fault& f) {
    return f.kind == fault.kind && f.node == fault.node && !f.forever;
  };
  active_.erase(std::find_if(active_.begin(), active_.end(), same));
  switch (fault.kind) {
    case FaultKind::kLoss:
    case FaultKind::kDuplication:
    case FaultKind::kDelay:
    case FaultKind::kReordering:
    case FaultKind::kPartition:
    case FaultKind::kOneWay:
    case FaultKind::kBetween:
      return set_links();
    case FaultKind::kSlowNode:
      return network_.set_slow_factor(fault.node, 1.0);
    case FaultKind::kEpochRace:
      return switch_.set_late_copies(0.0);
    case FaultKind::kNodeCrash:
      if (network_.up(fault.node)) return;
      network_.restart(fault.node);
      return machines_.start(fault.node);
    case FaultKind::kFreeze:
      if (network_.up(fault.node) && network_.frozen(fault.node)) network_.unfreeze(fault.node);
      return;
    default:
      if (network_.up(fault.node)) mend_node(fault);
  }
}

void FaultInjector::mend_node(const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kWorkerHang:
    case FaultKind::kWorkerStuck:
      return machines_.unhang_worker(fault.node);
    case FaultKind::kAgentStop:
      return machines_.continue_agent(fault.node);
    case FaultKind::kDrain:
      static_cast<void>(machines_.crash_agent(fault.node));
      return machines_.start(fault.node);
    case FaultKind::kAgentCrash:
      if (!machines_.running(fault.node)) machines_.start(fault.node);
      return;
    default:
      return;
  }
}

bool FaultInjector::troubled(std::size_t node) const {
  return std::ranges::any_of(active_, [node](const Fault& fault) {
    switch (fault.kind) {
      case FaultKind::kLoss:
      case FaultKind::kDuplication:
      case FaultKind::kDelay:
      case FaultKind::kReordering:
      case FaultKind::kPartition:
      case FaultKind::kOneWay:
      case FaultKind::kSlowNode:
        return fault.node == node;
      case FaultKind::kBetween:
        return std::max(fault.node, fault.other) == node;
      default:
        return false;  // the System sees it itself
    }
  });
}

bool FaultInjector::crash_node(std::size_t node) {
  if (!network_.up(node)) return false;
  network_.crash(node);
  machines_.crash(node);
  return true;
}

// What all active faults together make of the links.
void FaultInjector::set_links() {
  for (std::size_t from = 0; from < network_.n_nodes(); ++from) {
    for (std::size_t to = 0; to < network_.n_nodes(); ++to) {
      if (from == to) continue;
      sim::LinkModel link = link_;
      bool cut = false;
      for (const Fault& fault : active_) {
        if (on_link(fault.kind) && (fault.node == from || fault.node == to)) worsen(link, fault);
        cut = cut || cuts(fault, from, to);
      }
      network_.set_link(from, to, link);
      cut ? network_.cut(from, to) : network_.heal(from, to);
    }
  }
}

}  // namespace conclave::cluster_sim
