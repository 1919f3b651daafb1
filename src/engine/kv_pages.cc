#include "engine/kv_pages.h"

#include "base/check.h"

namespace conclave::engine {

PagePool::PagePool(std::size_t n_pages) : in_use_(n_pages, false) {
  free_.reserve(n_pages);
  for (std::size_t page = n_pages; page > 0; --page) {
    free_.push_back(static_cast<backend::PageIndex>(page - 1));
  }
}

std::optional<std::vector<backend::PageIndex>> PagePool::allocate(std::size_t n_pages) {
  if (n_pages > free_.size()) return std::nullopt;
  std::vector<backend::PageIndex> pages;
  pages.reserve(n_pages);
  for (std::size_t i = 0; i < n_pages; ++i) {
    pages.push_back(free_.back());
    free_.pop_back();
    in_use_[pages.back()] = true;
  }
  return pages;
}

void PagePool::free(std::span<const backend::PageIndex> pages) {
  for (const backend::PageIndex page : pages) {
    CHECK(page < in_use_.size());
    CHECK(in_use_[page]);
    in_use_[page] = false;
    free_.push_back(page);
  }
}

}  // namespace conclave::engine
