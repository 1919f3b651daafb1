// Who sends what: the terms that an exchange adds, in the order of adding.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "collective/collective.h"

namespace conclave::collective {

// One vector [R, H] of a message: the sum over a group's virtual ranks, or one of them alone.
struct Term {
  Rank rank = 0;          // that computes and sends it
  std::size_t slot = 0;   // among this rank's terms
  std::size_t begin = 0;  // virtual ranks [begin, end)
  std::size_t end = 0;
  bool residual = false;  // rank 0's first: group 0 added to the residual stream, float32 always
  bool last_of_group = true;
};

class Layout {
 public:
  Layout(std::vector<VirtualRank> virtual_ranks, std::size_t n_ranks, Rank self);

  std::span<const VirtualRank> virtual_ranks() const { return virtual_ranks_; }
  std::span<const std::size_t> own() const { return of_rank_[self_]; }
  std::span<const std::size_t> of(Rank rank) const { return of_rank_[rank]; }
  // All terms, in the order of adding. A rank's message has its own, in this order.
  std::span<const Term> terms() const { return terms_; }
  std::size_t n_terms(Rank rank) const { return n_terms_[rank]; }
  // The place of a virtual rank in own().
  std::size_t own_index(std::size_t virtual_rank) const;

 private:
  void add_term(Rank rank, std::size_t begin, std::size_t end, bool last_of_group);

  std::vector<VirtualRank> virtual_ranks_;
  Rank self_;
  std::vector<std::vector<std::size_t>> of_rank_;
  std::vector<Term> terms_;
  std::vector<std::size_t> n_terms_;  // by rank
};

}  // namespace conclave::collective
