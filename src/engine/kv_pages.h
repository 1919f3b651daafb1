// The pool of KV pages. A page belongs to one sequence or to nobody.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace conclave::engine {

// Pages that hold `n_positions` positions.
constexpr std::size_t pages_for(std::size_t n_positions) {
  return n_positions / backend::kPageTokens + (n_positions % backend::kPageTokens != 0 ? 1 : 0);
}

class PagePool {
 public:
  // Hands out pages 0 .. n_pages - 1.
  explicit PagePool(std::size_t n_pages);

  // `n_pages` pages, or nullopt (and no page taken) when fewer are free.
  std::optional<std::vector<backend::PageIndex>> allocate(std::size_t n_pages);
  // CHECKs that every page was handed out: a page freed twice would serve two sequences.
  void free(std::span<const backend::PageIndex> pages);

  std::size_t total() const { return in_use_.size(); }
  std::size_t used() const { return in_use_.size() - free_.size(); }

 private:
  std::vector<backend::PageIndex> free_;  // a stack: pages used last are still warm in caches
  std::vector<bool> in_use_;              // by page
};

}  // namespace conclave::engine
