#include "backend/expert_division.h"

#include <algorithm>

#include "base/check.h"

namespace conclave::backend {

ExpertDivision::ExpertDivision(const model::ModelConfig& config,
                               std::span<const DivisionMember> members)
    : members_(members.begin(), members.end()),
      home_(config.n_experts, kAnyMember),
      layers_(config.n_layers) {
  CHECK(members.size() < kAnyMember);
  for (std::size_t m = 0; m < members_.size(); ++m) {
    const DivisionMember& member = members_[m];
    own_.resize(std::max(own_.size(), member.group + 1));
    const std::size_t end = std::min(member.slice.experts.end, config.n_experts);
    for (std::size_t e = member.slice.experts.begin; e < end; ++e) {
      home_[e] = static_cast<std::uint16_t>(m);
      ++own_[member.group];
    }
  }
  for (std::size_t m = 0; m < members_.size(); ++m) {
    for (const model::LayerExpert& copy : members_[m].slice.replicas) {
      CHECK(copy.layer.value < config.n_layers && copy.expert.value < config.n_experts);
      std::vector<Replicated>& layer = layers_[copy.layer.value];
      auto at = std::ranges::lower_bound(layer, copy.expert, {}, &Replicated::expert);
      if (at == layer.end() || at->expert != copy.expert) {
        CHECK(home_[copy.expert.value] != kAnyMember);
        at = layer.insert(at, {copy.expert, {home_[copy.expert.value]}});
      }
      at->members.push_back(static_cast<std::uint16_t>(m));
    }
  }
}

const ExpertDivision::Replicated* ExpertDivision::find(LayerId layer, ExpertId expert) const {
  const std::vector<Replicated>& all = layers_[layer.value];
  const auto at = std::ranges::lower_bound(all, expert, {}, &Replicated::expert);
  return at != all.end() && at->expert == expert ? &*at : nullptr;
}

void ExpertDivision::assign(LayerId layer, std::span<const ExpertId> experts,
                            std::span<std::uint16_t> members) const {
  CHECK(experts.size() == members.size());
  std::vector<std::uint64_t> load(own_.size(), 0);  // [groups]: experts to compute
  for (std::size_t k = 0; k < experts.size(); ++k) {
    members[k] = kAnyMember;
    if (find(layer, experts[k]) == nullptr) ++load[members_[home_[experts[k].value]].group];
  }
  // Experts are dealt by speed, so a group's own number of them says how fast it is.
  const auto less_busy = [&](std::size_t a, std::size_t b) {
    return (load[a] + 1) * own_[b] < (load[b] + 1) * own_[a];
  };
  for (std::size_t k = 0; k < experts.size(); ++k) {
    const Replicated* copies = find(layer, experts[k]);
    if (copies == nullptr) continue;
    std::uint16_t best = copies->members.front();
    for (const std::uint16_t other : copies->members) {
      if (less_busy(members_[other].group, members_[best].group)) best = other;
    }
    members[k] = best;
    ++load[members_[best].group];
  }
}

std::size_t ExpertDivision::index_of(const model::Slice& slice) const {
  const auto at = std::ranges::find(members_, slice, &DivisionMember::slice);
  CHECK(at != members_.end());
  return static_cast<std::size_t>(at - members_.begin());
}

}  // namespace conclave::backend
