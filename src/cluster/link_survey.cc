#include "cluster/link_survey.h"

#include <algorithm>

namespace conclave::cluster {

bool LinkSurvey::is_busy(NodeId node) const {
  return std::ranges::any_of(under_way_, [node](const auto& item) {
    return item.second.pair.from == node || item.second.pair.to == node;
  });
}

void LinkSurvey::add(std::span<const Pair> pairs) {
  for (const Pair& pair : pairs) {
    const bool known = std::ranges::find(waiting_, pair) != waiting_.end() ||
                       std::ranges::any_of(under_way_, [&pair](const auto& item) {
                         return item.second.pair == pair;
                       });
    if (!known) waiting_.push_back(pair);
  }
}

std::vector<LinkSurvey::Ask> LinkSurvey::next(Time now) {
  std::vector<Ask> asks;
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    if (is_busy(it->from) || is_busy(it->to)) {
      ++it;
      continue;
    }
    const std::uint64_t id = next_id_++;
    under_way_[id] = {*it, now + kPatience};
    asks.push_back({id, *it});
    it = waiting_.erase(it);
  }
  return asks;
}

std::optional<LinkSurvey::Pair> LinkSurvey::find(std::uint64_t id) const {
  const auto it = under_way_.find(id);
  if (it == under_way_.end()) return std::nullopt;
  return it->second.pair;
}

std::optional<LinkSurvey::Pair> LinkSurvey::on_answer(std::uint64_t id) {
  const std::optional<Pair> pair = find(id);
  under_way_.erase(id);
  return pair;
}

std::vector<LinkSurvey::Pair> LinkSurvey::on_tick(Time now) {
  std::vector<Pair> late;
  std::erase_if(under_way_, [&](const auto& item) {
    if (now < item.second.deadline) return false;
    late.push_back(item.second.pair);
    return true;
  });
  return late;
}

void LinkSurvey::drop(NodeId node) {
  std::erase_if(waiting_, [node](const Pair& p) { return p.from == node || p.to == node; });
  std::erase_if(under_way_, [node](const auto& item) {
    return item.second.pair.from == node || item.second.pair.to == node;
  });
}

}  // namespace conclave::cluster
