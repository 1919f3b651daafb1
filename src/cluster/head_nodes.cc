// Which nodes live, what each holds, and where the model is placed.
#include <algorithm>
#include <utility>

#include "cluster/head_state.h"

namespace conclave::cluster {
namespace {

// What one tick may add to a node's silence: more means that the head itself was stopped.
constexpr Duration kTickMax = std::chrono::milliseconds(250);

}  // namespace

void Head::State::tick_nodes(Time now) {
  const Duration passed = std::clamp(now - last_tick, Duration::zero(), kTickMax);
  last_tick = now;
  if (short_for) *short_for += passed;
  if (links_bad_for) *links_bad_for += passed;
  for (auto& [id, node] : nodes) {
    if (!node.connected) continue;
    const bool was_alive = alive(node, now);
    node.silence += passed;
    if (node.report.busy()) {
      node.stuck += passed;
      node.still += passed;
    }
    if (node.banned_until && now >= *node.banned_until) {
      node.banned_until.reset();
      node.blamed = 0;
      holdings_stale = true;
    }
    if (was_alive && !alive(node, now)) {
      holdings_stale = true;
      note(now, name_of(id) + " is silent");
    }
  }
}

bool Head::State::alive(const NodeState& node, Time now) const {
  return node.connected && !node.removed && node.silence < options.silence_limit &&
         node.report.worker() != wire::pb::WORKER_FAILED &&
         !(node.banned_until && now < *node.banned_until);
}

bool Head::State::ready(const NodeState& node, Time now) const {
  return alive(node, now) && node.report.worker() == wire::pb::WORKER_READY &&
         node.report.layout() == layout.id && node.killed_life != node.report.worker_life();
}

std::set<std::size_t> Head::State::held(const NodeState& node) const {
  std::set<std::size_t> held;
  if (node.report.layout() != layout.id) return held;
  for (const std::uint32_t v : node.report.held()) {
    if (v < layout.virtual_ranks.size()) held.insert(v);
  }
  return held;
}

std::vector<NodeFacts> Head::State::living(Time now) const {
  std::vector<NodeFacts> facts;  // the map's order: the head first
  for (const auto& [id, node] : nodes) {
    if (alive(node, now) && !node.drained) facts.push_back(node.facts);
  }
  return facts;
}

bool Head::State::place(Time now, const char* why) {
  const std::vector<NodeFacts> facts = living(now);
  if (facts.empty() || facts.front().node != kHeadNode) return false;
  Result<Layout> placed = placer.place(facts);
  if (!placed) {
    placing_problem = placed.error().message;
    return false;
  }
  // Unlike any of an earlier head, whose layouts nodes may still have in memory.
  const std::uint64_t id = layout.id == 0 ? options.life | 1u : layout.id + 1;
  layout = std::move(placed).value();
  layout.id = id;
  placing_problem.clear();
  short_tried = {};
  holdings_stale = true;
  for (auto& [node, state] : nodes) {
    state.useful_since.reset();
    state.hold.clear();
    state.kv_agrees = false;  // another layout is another backend: its engine starts anew
  }
  if (epoch.live) break_epoch(now, "the model is divided anew", true);
  note(now, "the model is divided over " + std::to_string(layout.homes.size()) +
                " machines: " + why +
                (n_replicas(layout) == 0 ? ""
                                         : ", with " + std::to_string(n_replicas(layout)) +
                                               " copies of experts that are chosen often"));
  return true;
}

void Head::State::place_if_needed(Time now) {
  if (layout.id != 0) return;
  const std::vector<NodeFacts> facts = living(now);
  if (facts.size() < options.nodes_min) {
    placing_problem = std::to_string(facts.size()) + " of " + std::to_string(options.nodes_min) +
                      " machines are here";
    return wait_for_machines(now);
  }
  if (now - last_hello < options.gather) return;
  if (!place(now, "all are here")) wait_for_machines(now);
}

// Requests wait too, but not for ever.
void Head::State::wait_for_machines(Time now) {
  short_tried = now;
  if (!short_for) {
    short_for = Duration::zero();
    note(now, shortage());
  }
  if (*short_for >= options.short_limit) fail_all(unavailable(shortage()));
}

// Those that are not gone yet, when the others cannot do without them any more.
bool Head::State::take_drained_back(Time now) {
  bool any = false;
  for (auto& [id, node] : nodes) {
    if (!node.drained || !alive(node, now)) continue;
    node.drained = false;
    any = true;
    note(now, name_of(id) + " is needed again and not drained");
  }
  return any;
}

std::string Head::State::shortage() const {
  return "the machines that are there cannot hold the model: " + placing_problem;
}

// Decides anew who holds what, when something has changed that it depends on.
void Head::State::plan_holdings(Time now) {
  constexpr Duration kTryAgain = std::chrono::milliseconds(500);
  if (short_for && now - short_tried < kTryAgain) return;
  if (!std::exchange(holdings_stale, false)) return;
  // In whole virtual ranks it may not fit any more; divided anew it may.
  const auto divide_anew = [&] {
    return place(now, "the rest holds it differently") && give_out(now);
  };
  if (give_out(now) || divide_anew()) return;
  if (take_drained_back(now) && (give_out(now) || divide_anew())) return;
  holdings_stale = true;  // until machines come back
  wait_for_machines(now);
}

// False: the machines that are there cannot hold everything.
bool Head::State::give_out(Time now) {
  std::vector<NodeRoom> rooms;
  Holdings before;
  for (const auto& [id, node] : nodes) {
    if (!alive(node, now) || node.drained) continue;
    rooms.push_back({id, static_cast<std::uint64_t>(node.facts.machine.usable_bytes)});
    before[id] = held(node);
    // What is on its way counts too: else each slice that comes would move the others' places.
    before[id].insert(node.hold.begin(), node.hold.end());
  }
  const std::size_t copies = rooms.size() > 1 ? 1 + options.cover_losses : 1;
  const Holdings wanted = assign_holdings(layout, rooms, before, copies);
  if (!uncovered(layout, wanted).empty()) return false;
  holdings_stale = false;
  short_for.reset();
  rebuilding = false;
  for (auto& [id, node] : nodes) {
    const auto it = wanted.find(id);
    node.hold = it == wanted.end() ? std::set<std::size_t>{} : it->second;
    const std::set<std::size_t> has = held(node);
    rebuilding = rebuilding || !std::ranges::includes(has, node.hold);
  }
  Holdings now_held;
  for (const auto& [id, node] : nodes) {
    if (ready(node, now) && !node.drained) now_held[id] = held(node);
  }
  survives = losses_survived(layout, now_held);
  return true;
}

// Without its layout, which is large, and its sequence.
wire::pb::Assignment Head::State::assignment_for(const NodeState& node) const {
  wire::pb::Assignment assignment;
  assignment.set_head(options.life);
  assignment.set_node(node.facts.node.value);
  std::set<std::size_t> hold = node.hold;
  // What it computes it keeps until others do that.
  if (epoch.live && epoch.layout == layout.id) {
    for (std::size_t v = 0; v < epoch.computing.size(); ++v) {
      if (epoch.computing[v] == node.facts.node) hold.insert(v);
    }
  }
  // Homes first: without them nobody can begin.
  const auto is_home = [&](std::size_t v) {
    return layout.homes[layout.virtual_ranks[v].group] == node.facts.node;
  };
  for (const bool home : {true, false}) {
    for (const std::size_t v : hold) {
      if (is_home(v) == home) assignment.add_hold(static_cast<std::uint32_t>(v));
    }
  }
  assignment.set_embedding(node.facts.node == kHeadNode);
  add_holders(node, assignment);
  assignment.set_drained(node.drained);
  if (node.killed_life == node.report.worker_life() && node.killed_life) {
    assignment.set_kill_worker(*node.killed_life);
  }
  const bool member = std::ranges::find(epoch.ranks, node.facts.node) != epoch.ranks.end();
  if (epoch.live && member) *assignment.mutable_epoch() = epoch_message(node.facts.node);
  return assignment;
}

// Who can give its files to a machine without them; the connections know addresses and keys.
void Head::State::add_holders(const NodeState& node, wire::pb::Assignment& assignment) const {
  if (layout.id == 0 || node.models.contains(layout.model)) return;
  for (const auto& [id, other] : nodes) {
    const bool there = other.connected && other.silence < options.silence_limit;
    if (!there || other.bulk_port == 0 || !other.models.contains(layout.model)) continue;
    wire::pb::WeightHolder* holder = assignment.add_holders();
    holder->set_node(id.value);
    holder->mutable_endpoint()->set_port(other.bulk_port);
  }
}

// To each node whose assignment has changed; to all with `resend`, in case one was lost.
void Head::State::send_assignments(Time now, bool resend) {
  if (resend) last_sent = now;
  for (auto& [id, node] : nodes) {
    if (!node.connected) continue;
    wire::pb::Assignment assignment = assignment_for(node);
    std::string text = assignment.SerializeAsString();
    const bool known = text == node.last_assignment && layout.id == node.last_layout;
    if (known && !resend) continue;
    node.last_assignment = std::move(text);
    node.last_layout = layout.id;
    if (layout.id != 0) *assignment.mutable_layout() = to_message(layout);
    assignment.set_sequence(++node.assignment_sequence);
    actions.push_back(SendAssignment{id, std::move(assignment)});
  }
}

}  // namespace conclave::cluster
