#include "cluster/head.h"

#include <algorithm>
#include <utility>

#include "cluster/facts.h"
#include "cluster/head_state.h"

namespace conclave::cluster {

Head::Head(const HeadOptions& options, Placer& placer)
    : state_(std::make_unique<State>(options, placer)) {}

Head::~Head() = default;

void Head::State::note(Time now, std::string text) {
  past.push_back({++n_noted, now, std::move(text)});
  if (past.size() > kHistoryMax) past.pop_front();
}

std::string Head::State::name_of(NodeId node) const {
  const auto it = nodes.find(node);
  if (it == nodes.end()) return "node " + std::to_string(node.value);
  return it->second.facts.machine.name;
}

void Head::State::fail_all(const Error& error) {
  for (const RequestId id : logs.ids()) close_with(id, error);
}

// The next steps that are possible, after any event.
void Head::State::reconcile(Time now) {
  const auto head = nodes.find(kHeadNode);
  if (head == nodes.end()) return;
  const wire::pb::Report& own = head->second.report;
  if (own.worker() == wire::pb::WORKER_FAILED && failure.empty()) {
    failure = own.error();
    note(now, "the head's worker cannot go on: " + failure);
  }
  if (!failure.empty()) return fail_all(unavailable(failure));
  place_if_needed(now);
  if (layout.id == 0) return send_assignments(now, false);
  plan_holdings(now);
  if (epoch.live) check_epoch(now);
  if (!epoch.live) form_if_possible(now);
  if (epoch.live && epoch.joined) improve_if_idle(now);
  send_assignments(now, false);
}

void Head::on_hello(Time now, NodeId id, const wire::pb::Hello& hello) {
  State& s = *state_;
  const auto own = s.nodes.find(kHeadNode);
  if (id != kHeadNode && own != s.nodes.end() && own->second.numerics != hello.numerics()) {
    if (std::exchange(s.refused_lives[id], hello.life()) != hello.life()) {
      s.note(now, hello.machine().name() + " needs upgrade: its build computes other bits");
    }
    s.actions.push_back(RefuseNode{id,
                                   "this build computes other bits than the head's: upgrade both"
                                   " to one version"});
    return;
  }
  NodeState& node = s.nodes[id];
  // A drain outlives a lost connection. Whoever was removed has been paired again.
  if (std::exchange(node.removed, false) || node.life != hello.life()) node.drained = false;
  const bool was_known = node.life != 0;
  node.facts = {id, machine_from(hello.machine())};
  node.numerics = hello.numerics();
  node.models = std::set<std::uint64_t>(hello.models().begin(), hello.models().end());
  node.bulk_port = hello.bulk_port();
  if (node.life != hello.life()) {
    // Nobody need have said that its last life is over.
    node.report.Clear();
    node.report_sequence = 0;
    node.kv_agrees = false;
    node.killed_life.reset();  // its workers are counted anew
    node.banned_until.reset();
    node.blamed = node.bans = 0;
    if (s.epoch.live && std::ranges::find(s.epoch.ranks, id) != s.epoch.ranks.end()) {
      s.break_epoch(now, node.facts.machine.name + " was started again", true);
    }
  }
  node.life = hello.life();
  node.last_assignment.clear();  // it has forgotten what it was told
  node.connected = true;
  node.silence = {};
  s.last_hello = now;
  s.holdings_stale = true;
  s.note(now, node.facts.machine.name + (was_known ? " is back" : " joined"));
  s.reconcile(now);
}

void Head::on_report(Time now, NodeId id, const wire::pb::Report& report) {
  State& s = *state_;
  const auto it = s.nodes.find(id);
  if (it == s.nodes.end() || !it->second.connected) return;
  NodeState& node = it->second;
  if (report.sequence() <= node.report_sequence) return;  // late, or a second copy
  node.report_sequence = report.sequence();
  node.silence = {};
  const bool moved = !report.busy() || report.progress() != node.report.progress();
  if (moved) node.stuck = node.still = {};
  // A worker that is starting has not looked at its cache yet.
  if (report.worker() == wire::pb::WORKER_READY && report.kv() != node.kv) node.kv_agrees = false;
  if (report.layout() != node.report.layout() || report.held_size() != node.report.held_size()) {
    s.holdings_stale = true;
  }
  node.report = report;
  s.reconcile(now);
}

void Head::on_gone(Time now, NodeId id, const std::string& reason) {
  State& s = *state_;
  const auto it = s.nodes.find(id);
  if (it == s.nodes.end() || !it->second.connected) return;
  it->second.connected = false;
  it->second.report.Clear();
  s.holdings_stale = true;
  s.note(now, it->second.facts.machine.name + " is gone: " + reason);
  s.reconcile(now);
}

void Head::on_tick(Time now) {
  state_->tick_nodes(now);
  state_->reconcile(now);
  constexpr Duration kResendEvery = std::chrono::milliseconds(500);
  if (now - state_->last_sent >= kResendEvery) state_->send_assignments(now, true);
}

Result<void> Head::drain(Time now, NodeId id) {
  State& s = *state_;
  const auto it = s.nodes.find(id);
  if (it == s.nodes.end()) return not_found("no such node in the pool");
  if (id == kHeadNode) return invalid_input("the head cannot be drained: stop it instead");
  if (s.layout.id != 0 && !s.can_spare(now, id)) {
    return exhausted("the other machines cannot hold the model without " + s.name_of(id));
  }
  it->second.drained = true;
  s.holdings_stale = true;
  s.note(now, it->second.facts.machine.name + " is being drained");
  s.reconcile(now);
  return {};
}

void Head::remove(Time now, NodeId id) {
  State& s = *state_;
  const auto it = s.nodes.find(id);
  if (it == s.nodes.end()) return;
  it->second.removed = true;
  it->second.connected = false;
  it->second.report.Clear();
  s.holdings_stale = true;
  s.note(now, it->second.facts.machine.name + " was removed");
  s.actions.push_back(RefuseNode{id, "removed from the pool"});
  s.reconcile(now);
}

std::vector<HeadAction> Head::take_actions() { return std::exchange(state_->actions, {}); }

const std::deque<HistoryEntry>& Head::history() const { return state_->past; }

const std::string& Head::failure() const { return state_->failure; }

}  // namespace conclave::cluster
