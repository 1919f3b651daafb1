// When an epoch ends and the next one begins.
#include <algorithm>
#include <utility>

#include "cluster/head_state.h"

namespace conclave::cluster {
namespace {

bool contains(const std::vector<NodeId>& nodes, NodeId node) {
  return std::ranges::find(nodes, node) != nodes.end();
}

}  // namespace

void Head::State::break_epoch(Time now, const std::string& reason, bool explained) {
  CHECK(epoch.live);
  epoch.live = false;
  epoch.broken_at = now;
  epoch.explained = explained;
  epoch.grace = false;
  epoch.worker_ended = false;
  note(now, "epoch " + std::to_string(epoch.number) + " ends: " + reason);
}

// Whether this rank is still what it was when the epoch began; breaks the epoch otherwise.
bool Head::State::check_rank(Time now, std::size_t rank) {
  const NodeId id = epoch.ranks[rank];
  NodeState& node = nodes.at(id);
  const std::string& name = node.facts.machine.name;
  if (!alive(node, now)) {
    break_epoch(now, name + " is lost", true);
    return false;
  }
  const bool same = node.report.worker() == wire::pb::WORKER_READY &&
                    node.report.worker_life() == epoch.worker_lives[rank];
  if (!same) {
    constexpr Duration kHung = std::chrono::seconds(1);
    const bool hung = node.stuck >= kHung || node.killed_life == epoch.worker_lives[rank];
    break_epoch(now, "the worker of " + name + " ended", true);
    epoch.grace = !hung;  // who hung for long has cost enough time already
    epoch.worker_ended = true;
    return false;
  }
  if (node.report.broken().epoch() == epoch.number) {
    break_epoch(now, name + " says: " + node.report.broken().reason(), false);
    return false;
  }
  return true;
}

// Busy without progress for so long: more than a layer can take.
Duration Head::State::stuck_limit() const {
  const double layers = 61.0;  // of the largest models: a bound, not a guess at this one
  const Duration predicted =
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(layout.step_seconds));
  const Duration layer = std::chrono::duration_cast<Duration>(predicted / layers);
  return std::max(options.stuck_limit,
                  std::chrono::duration_cast<Duration>(layer * options.stuck_factor));
}

// Busy without progress and waiting for nobody: the end of a chain of waits.
void Head::State::check_stuck(Time now) {
  const Duration limit = stuck_limit();
  bool any_busy = false;
  bool all_stuck = true;
  for (std::size_t rank = 0; rank < epoch.ranks.size(); ++rank) {
    NodeState& node = nodes.at(epoch.ranks[rank]);
    any_busy = any_busy || node.report.busy();
    all_stuck = all_stuck && (node.stuck >= 2 * limit || !node.report.busy());
    if (node.stuck < limit || node.report.waiting_for() >= 0) continue;
    node.killed_life = node.report.worker_life();
    break_epoch(now, node.facts.machine.name + " makes no progress", true);
    epoch.worker_ended = true;
    return;
  }
  // One that is not busy does not know that it is waited for: a message is lost, or it hangs.
  if (any_busy && all_stuck) break_epoch(now, "every rank waits for another", false);
}

void Head::State::check_epoch(Time now) {
  if (epoch.layout != layout.id) return break_epoch(now, "the model is divided anew", true);
  for (std::size_t rank = 0; rank < epoch.ranks.size(); ++rank) {
    if (!check_rank(now, rank)) return;
  }
  const NodeState& head = nodes.at(kHeadNode);
  if (!epoch.joined && head.report.joined_epoch() == epoch.number) on_joined(now);
  const Duration join_limit = options.join_limit + std::chrono::seconds(1);
  if (!epoch.joined && now - epoch.begun > join_limit) {
    return break_epoch(now, "the ranks did not come together in time", false);
  }
  if (!epoch.joined) return;
  check_stuck(now);
  constexpr Duration kTrusted = std::chrono::seconds(5);
  if (!epoch.live || now - epoch.begun < kTrusted) return;
  links_bad_for.reset();
  for (const NodeId id : epoch.ranks) nodes.at(id).blamed = nodes.at(id).bans = 0;
}

// All ranks are together: from here on their KV caches grow alike, and nobody else's does.
void Head::State::on_joined(Time now) {
  epoch.joined = true;
  for (auto& [id, node] : nodes) {
    if (!contains(epoch.ranks, id)) continue;
    node.useful_since.reset();
    node.kv = node.report.kv();
    if (epoch.fresh) node.kv_agrees = node.kv != 0;
  }
  holdings_stale = true;
  note(now, "epoch " + std::to_string(epoch.number) + " runs on " +
                std::to_string(epoch.ranks.size()) + " machines" +
                (epoch.fresh ? ", from the token logs" : ""));
  admit_open(now);
}

// Whether a worker that died under a living agent should get the time to come back.
bool Head::State::worth_waiting(Time now) const {
  if (epoch.number == 0) return false;
  if (!epoch.explained && now - epoch.broken_at < options.settle) return true;
  if (now - epoch.broken_at >= options.restart_grace) return false;
  for (std::size_t rank = 0; rank < epoch.ranks.size(); ++rank) {
    const auto it = nodes.find(epoch.ranks[rank]);
    if (it == nodes.end() || !alive(it->second, now) || it->second.drained) continue;
    const wire::pb::Report& report = it->second.report;
    const bool coming_back =
        report.worker() != wire::pb::WORKER_READY || report.layout() != layout.id;
    // The settled reports show more deaths than the one that broke the epoch.
    const bool died = report.worker_life() != epoch.worker_lives[rank] || coming_back;
    if (coming_back && died && (epoch.grace || !epoch.explained)) return true;
  }
  return false;
}

std::optional<std::vector<NodeId>> Head::State::computing_among(
    const std::vector<NodeId>& members) const {
  Holdings holdings;
  for (const NodeId id : members) holdings[id] = held(nodes.at(id));
  std::optional<std::vector<NodeId>> computing = assign_computing(layout, holdings);
  if (!computing) return computing;
  // Rank 0 sums group 0 into the residual: its virtual ranks are its own.
  for (std::size_t v = 0; v < computing->size(); ++v) {
    if (layout.virtual_ranks[v].group == 0 && (*computing)[v] != kHeadNode) return std::nullopt;
  }
  return computing;
}

void Head::State::form_if_possible(Time now) {
  const NodeState& head = nodes.at(kHeadNode);
  if (!ready(head, now) || worth_waiting(now)) return;
  judge_break(now);
  if (!ready(head, now)) return;
  std::vector<NodeId> all;
  std::vector<NodeId> agreeing;
  for (const auto& [id, node] : nodes) {
    if (!ready(node, now) || (id != kHeadNode && held(node).empty())) continue;
    if (all.size() == transport::kRanksMax) break;
    all.push_back(id);
    if (node.kv_agrees) agreeing.push_back(id);
  }
  std::vector<NodeId> undrained;
  for (const NodeId id : all) {
    if (!nodes.at(id).drained) undrained.push_back(id);
  }
  if (undrained.size() < all.size() && computing_among(undrained)) {
    all = std::move(undrained);
    std::erase_if(agreeing, [this](NodeId id) { return nodes.at(id).drained; });
  }
  const bool engine_lives = epoch.number > 0 && head.kv_agrees && !epoch.worker_lives.empty() &&
                            head.report.worker_life() == epoch.worker_lives[0];
  // If a step ends workers again and again, its requests are admitted anew, which counts for them.
  const int breaks = barren_breaks + (epoch.worker_ended ? 1 : 0);
  const bool suspicious = breaks >= options.barren_attempts_max;
  if (logs.size() > 0 && engine_lives && !suspicious) {
    auto computing = computing_among(agreeing);
    // In a pipeline each rank has the KV cache of its own layers alone.
    const bool kept = layout.strategy != plan::Strategy::kPipeline || computing == epoch.computing;
    if (computing && kept) return form(now, agreeing, std::move(*computing), /*fresh=*/false);
  }
  if (auto computing = computing_among(all)) form(now, all, std::move(*computing), /*fresh=*/true);
}

void Head::State::form(Time now, const std::vector<NodeId>& members, std::vector<NodeId> computing,
                       bool fresh) {
  const bool worker_ended = epoch.worker_ended;
  barren_breaks = logs.size() == 0 ? 0 : barren_breaks + (worker_ended ? 1 : 0);
  EpochState next;
  next.number = epoch.number + 1;
  next.layout = layout.id;
  next.live = true;
  next.fresh = fresh;
  next.ranks = members;
  next.computing = std::move(computing);
  next.begun = now;
  next.worker_ended = worker_ended;
  for (const NodeId id : members) {
    NodeState& node = nodes.at(id);
    next.worker_lives.push_back(node.report.worker_life());
    node.stuck = {};
    node.killed_life.reset();
    node.epoch_assignment = node.assignment_sequence + 1;
  }
  // From now on steps may be done that the head has not heard of. Who is left out misses them; and
  // until a fresh epoch is known to have begun, nobody knows which sequences a cache is of.
  for (auto& [id, node] : nodes) {
    if (fresh || !contains(members, id)) node.kv_agrees = false;
  }
  epoch = std::move(next);
  ++epochs_formed;
  if (fresh) ++fresh_epochs;
}

wire::pb::Epoch Head::State::epoch_message(NodeId receiver) const {
  wire::pb::Epoch message;
  message.set_epoch(epoch.number);
  message.set_layout(epoch.layout);
  for (std::size_t rank = 0; rank < epoch.ranks.size(); ++rank) {
    const NodeId id = epoch.ranks[rank];
    *message.add_ranks() = nodes.at(id).report.data();
    message.add_nodes(id.value);
    if (id == receiver) message.set_rank(static_cast<std::uint32_t>(rank));
  }
  for (const NodeId id : epoch.computing) {
    const auto rank = std::ranges::find(epoch.ranks, id) - epoch.ranks.begin();
    message.add_computed_by(static_cast<std::uint32_t>(rank));
  }
  message.set_fresh(epoch.fresh);
  return message;
}

// A node that is back, new backups, a node to let go: taken into account when that disturbs
// nobody, or when it has waited for long.
void Head::State::improve_if_idle(Time now) {
  bool waited = false;
  bool useful = false;
  for (auto& [id, node] : nodes) {
    const bool member = contains(epoch.ranks, id);
    if (member && node.drained) {
      std::vector<NodeId> rest = epoch.ranks;
      std::erase(rest, id);
      if (computing_among(rest)) return break_epoch(now, name_of(id) + " is drained", true);
    }
    if (member || node.drained || !ready(node, now) || held(node).empty()) continue;
    if (!node.useful_since) node.useful_since = now;
    useful = true;
    waited = waited || now - *node.useful_since >= options.rejoin_after;
  }
  if (useful && (waited || logs.size() == 0)) {
    // Those who were away have no KV cache to speak of: everybody starts anew.
    for (auto& [id, node] : nodes) node.kv_agrees = false;
    return break_epoch(now, "machines have come", true);
  }
  if (logs.size() == 0) relayout_if_better(now);
}

// Machines that the division does not know may make it faster.
void Head::State::relayout_if_better(Time now) {
  constexpr Duration kCheckEvery = std::chrono::seconds(2);
  if (now - relayout_checked < kCheckEvery) return;
  relayout_checked = now;
  const std::vector<NodeFacts> facts = living(now);
  const bool strangers = std::ranges::any_of(
      facts, [this](const NodeFacts& f) { return !contains(layout.homes, f.node); });
  if (!strangers || facts.empty() || facts.front().node != kHeadNode) return gain_since.reset();
  const Result<Layout> other = placer.place(facts);
  const bool better =
      other && other.value().step_seconds < layout.step_seconds * (1.0 - options.relayout_gain);
  if (!better) return gain_since.reset();
  if (!gain_since) gain_since = now;
  if (now - *gain_since < options.relayout_after) return;
  gain_since.reset();
  place(now, "faster with the machines that have come");
}

}  // namespace conclave::cluster
