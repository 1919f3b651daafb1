#include "collective/layout.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace conclave::collective {

Result<void> check_layout(std::span<const VirtualRank> virtual_ranks, std::size_t n_ranks) {
  if (virtual_ranks.empty()) return invalid_input("a layout without virtual ranks");
  std::size_t group = 0;
  std::vector<std::size_t> n_of_rank(n_ranks, 0);
  for (std::size_t v = 0; v < virtual_ranks.size(); ++v) {
    const VirtualRank& at = virtual_ranks[v];
    const std::string name = "virtual rank " + std::to_string(v);
    if (at.rank >= n_ranks) {
      return invalid_input(name + " is on rank " + std::to_string(at.rank) + " of " +
                           std::to_string(n_ranks));
    }
    if (++n_of_rank[at.rank] > kVirtualRanksMax && n_ranks > 1) {
      return invalid_input("rank " + std::to_string(at.rank) + " has more than " +
                           std::to_string(kVirtualRanksMax) + " virtual ranks");
    }
    if (at.group != group && (v == 0 || at.group != group + 1)) {
      return invalid_input(name + " is of group " + std::to_string(at.group) + " after group " +
                           std::to_string(group) + "; groups ascend from 0 without gaps");
    }
    group = at.group;
    if (group == 0 && at.rank != 0) {
      return invalid_input(name + " is of group 0 and on rank " + std::to_string(at.rank) +
                           "; rank 0 computes that group");
    }
  }
  return {};
}

Layout::Layout(std::vector<VirtualRank> virtual_ranks, std::size_t n_ranks, Rank self)
    : virtual_ranks_(std::move(virtual_ranks)),
      self_(self),
      of_rank_(n_ranks),
      n_terms_(n_ranks, 0) {
  CHECK(self < n_ranks);
  CHECK(check_layout(virtual_ranks_, n_ranks));
  for (std::size_t v = 0; v < virtual_ranks_.size(); ++v) {
    of_rank_[virtual_ranks_[v].rank].push_back(v);
  }
  for (std::size_t begin = 0; begin < virtual_ranks_.size();) {
    const VirtualRank first = virtual_ranks_[begin];
    std::size_t end = begin;
    bool one_rank = true;
    while (end < virtual_ranks_.size() && virtual_ranks_[end].group == first.group) {
      if (virtual_ranks_[end++].rank != first.rank) one_rank = false;
    }
    if (one_rank) {
      add_term(first.rank, begin, end, true);
    } else {
      for (std::size_t v = begin; v < end; ++v) {
        add_term(virtual_ranks_[v].rank, v, v + 1, v + 1 == end);
      }
    }
    begin = end;
  }
}

void Layout::add_term(Rank rank, std::size_t begin, std::size_t end, bool last_of_group) {
  terms_.push_back({.rank = rank,
                    .slot = n_terms_[rank]++,
                    .begin = begin,
                    .end = end,
                    .residual = begin == 0,
                    .last_of_group = last_of_group});
}

std::size_t Layout::own_index(std::size_t virtual_rank) const {
  const auto found = std::ranges::lower_bound(own(), virtual_rank);
  CHECK(found != own().end() && *found == virtual_rank);
  return static_cast<std::size_t>(found - own().begin());
}

}  // namespace conclave::collective
