// What the ranks' reports say of a break, once they have had the time to come: whose worker ended
// or hangs, and between whom the network does not carry.
#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "cluster/head_state.h"

namespace conclave::cluster {

using Kind = collective::Broken::Kind;

// Once for each break that nothing has explained yet.
void Head::State::judge_break(Time now) {
  if (epoch.number == 0 || epoch.explained || std::exchange(epoch.judged, true)) return;
  if (find_ended()) return;  // the others lost it: no link is to blame
  find_hung(now);
  find_bad_link(now);
}

// Its peers may notice the end of a worker before its own agent does.
bool Head::State::find_ended() {
  for (std::size_t rank = 0; rank < epoch.ranks.size(); ++rank) {
    const wire::pb::Report& report = nodes.at(epoch.ranks[rank]).report;
    const bool same = report.worker() == wire::pb::WORKER_READY &&
                      report.worker_life() == epoch.worker_lives[rank];
    if (!same) epoch.worker_ended = true;
  }
  return epoch.worker_ended;
}

// A rank that was told of the epoch, and had the time to join it, has joined or says why not. One
// whose thread does neither hangs, unless it is busy with what takes long.
void Head::State::find_hung(Time now) {
  if (epoch.broken_at - epoch.begun < options.join_limit) return;
  for (const NodeId id : epoch.ranks) {
    NodeState& node = nodes.at(id);
    const wire::pb::Report& report = node.report;
    const bool told = report.assignment() >= node.epoch_assignment;
    const bool answered =
        report.joined_epoch() == epoch.number || report.broken().epoch() == epoch.number;
    const bool busy = report.busy() && node.still < stuck_limit();
    if (!alive(node, now) || !told || answered || busy) continue;
    node.killed_life = report.worker_life();
    epoch.worker_ended = true;
    note(now, node.facts.machine.name + " does not join: its worker hangs");
  }
}

// Between two nodes that the head both hears, nobody knows who is right. The one that most reports
// name gives way, if the others can do without it; of two that name each other, the one with the
// higher number; never the head. Who could not join and names nobody has itself to blame.
void Head::State::find_bad_link(Time now) {
  if (!own_reason(kHeadNode).empty()) {
    return give_up_in_time("the head's own rank cannot join: " + own_reason(kHeadNode));
  }
  std::map<NodeId, int> votes;
  for (const NodeId id : epoch.ranks) {
    const wire::pb::Broken& broken = nodes.at(id).report.broken();
    const auto kind = static_cast<Kind>(broken.kind());
    if (broken.epoch() != epoch.number || kind == Kind::kInterrupted) continue;
    // Who was waited for in vain says more than who was lost, perhaps because it left first.
    const int weight = kind == Kind::kLate ? 2 : 1;
    if (broken.peer() < epoch.ranks.size()) {
      votes[id] += weight;
      votes[epoch.ranks[broken.peer()]] += weight;
    } else if (kind == Kind::kLate) {
      votes[id] += 2 * weight;
    }
  }
  votes.erase(kHeadNode);
  std::erase_if(votes, [this](const auto& vote) {
    const NodeState& node = nodes.at(vote.first);
    return node.killed_life == node.report.worker_life();  // that it hangs explains it
  });
  if (votes.empty()) return;
  std::vector<std::pair<int, NodeId>> order;
  for (const auto& [id, n] : votes) order.emplace_back(n, id);
  std::ranges::sort(order, std::greater<>());
  const int most = order.front().first;
  std::erase_if(order, [most](const auto& entry) { return 2 * entry.first < most; });
  for (const auto& [n, id] : order) {
    if (can_spare(now, id)) return blame(now, nodes.at(id));
  }
  const NodeId id = order.front().second;
  const std::string why = own_reason(id);
  give_up_in_time(
      "the machines that reach each other cannot hold the model: " +
      (why.empty() ? "others do not reach " + name_of(id) : name_of(id) + " cannot join: " + why));
}

// Why this rank could not join, where that is nobody else's fault; empty: it is not so.
std::string Head::State::own_reason(NodeId id) const {
  const wire::pb::Broken& broken = nodes.at(id).report.broken();
  const bool own = broken.epoch() == epoch.number && broken.peer() >= epoch.ranks.size() &&
                   static_cast<Kind>(broken.kind()) == Kind::kLate;
  return own ? broken.reason() : std::string();
}

// Left out, twice as long each time.
void Head::State::blame(Time now, NodeState& node) {
  constexpr int kDoublingsMax = 5;
  if (++node.blamed < options.blamed_max) return;
  node.banned_until = now + options.banned_for * (1 << std::min(node.bans++, kDoublingsMax));
  holdings_stale = true;
  const std::string why = own_reason(node.facts.node);
  note(now, node.facts.machine.name + " is left out for a while: " +
                (why.empty() ? "others do not reach it" : "it cannot join: " + why));
}

// Nobody can be left out: it is tried again, and requests wait, but not for ever.
void Head::State::give_up_in_time(const std::string& why) {
  if (!links_bad_for) links_bad_for = Duration::zero();
  if (*links_bad_for >= options.short_limit) fail_all(unavailable(why));
}

bool Head::State::can_spare(Time now, NodeId id) const {
  std::vector<NodeFacts> rest = living(now);
  std::erase_if(rest, [id](const NodeFacts& facts) { return facts.node == id; });
  return !rest.empty() && bool(placer.place(rest));
}

}  // namespace conclave::cluster
