#include "cluster/pool_links.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "cluster/link_message.h"

namespace conclave::cluster {

void PoolLinks::on_hello(Time now, NodeId node) {
  survey_.drop(node);  // of its life before this one
  nodes_.insert(node);
  std::vector<LinkSurvey::Pair> pairs;
  for (const NodeId other : nodes_) {
    if (other == node) continue;
    pairs.push_back({node, other});
    pairs.push_back({other, node});
  }
  survey_.add(pairs);
  quiet_until_ = std::max(quiet_until_, now + kSettle);
  if (in_round()) {  // what it was asked before its connection ended is lost
    round_checks_.insert(node);
    ask_(node, 0, std::nullopt);
  }
}

void PoolLinks::on_gone(NodeId node) {
  nodes_.erase(node);
  survey_.drop(node);
  links_.forget(node);
  checks_.erase(node);
  round_checks_.erase(node);
  std::erase_if(round_pairs_, [node](const LinkTable::Pair& pair) {
    return pair.first == node || pair.second == node;
  });
}

void PoolLinks::on_answer(Time now, NodeId node, const wire::pb::Measured& answer) {
  if (!nodes_.contains(node)) return;
  if (answer.has_checks()) {
    checks_[node] = from_message(answer.checks());
    round_checks_.erase(node);
  }
  if (!answer.has_link()) return;
  const std::optional<LinkSurvey::Pair> pair = survey_.find(answer.id());
  if (!pair || pair->from != node) return;  // too late, or not its to answer
  survey_.on_answer(answer.id());
  finish(now, *pair, from_message(answer.link()));
}

void PoolLinks::finish(Time now, const LinkSurvey::Pair& pair, LinkMeasurement found) {
  links_.set(now, pair.from, pair.to, std::move(found));
  round_pairs_.erase({pair.from, pair.to});
}

void PoolLinks::on_tick(Time now, bool idle) {
  for (const LinkSurvey::Pair& late : survey_.on_tick(now)) {
    LinkMeasurement found;
    found.error = "no answer in time: its build may be an older one";
    finish(now, late, std::move(found));
  }
  if (now >= round_checks_until_) round_checks_.clear();
  if (!idle) quiet_until_ = std::max(quiet_until_, now + kIdleFor);
  if (in_round()) return begin(now);
  if (now < quiet_until_) return;
  std::vector<LinkSurvey::Pair> again;
  for (const auto& [pair, link] : links_.all()) {
    if (!link.found.error.empty() && now - link.at >= kRetryAfter) {
      again.push_back({pair.first, pair.second});
    }
  }
  survey_.add(again);
  begin(now);
}

void PoolLinks::begin(Time now) {
  for (const LinkSurvey::Ask& ask : survey_.next(now)) ask_(ask.pair.from, ask.id, ask.pair.to);
}

std::uint64_t PoolLinks::begin_round(Time now) {
  if (in_round()) return round_;
  ++round_;
  checks_.clear();
  round_checks_ = nodes_;
  round_checks_until_ = now + kChecksTime;
  std::vector<LinkSurvey::Pair> pairs;
  for (const NodeId from : nodes_) {
    for (const NodeId to : nodes_) {
      if (from == to) continue;
      pairs.push_back({from, to});
      round_pairs_.insert({from, to});
    }
  }
  round_total_ = round_checks_.size() + pairs.size();
  survey_.add(pairs);
  const std::set<NodeId> nodes = nodes_;  // answers may come inside the calls
  for (const NodeId node : nodes) ask_(node, 0, std::nullopt);
  begin(now);
  return round_;
}

std::optional<PoolLinks::Progress> PoolLinks::progress(std::uint64_t round) const {
  if (round == 0 || round != round_) return std::nullopt;
  return Progress{.left = round_pairs_.size() + round_checks_.size(), .total = round_total_};
}

const MachineChecks* PoolLinks::checks(NodeId node) const {
  const auto found = checks_.find(node);
  return found == checks_.end() ? nullptr : &found->second;
}

}  // namespace conclave::cluster
