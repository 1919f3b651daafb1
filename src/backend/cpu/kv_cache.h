// The paged latent cache: per layer and page, 64 positions of [kv_lora latent | rotated rope key].
// BF16 on the fast path, float32 on the exact one. Private to backend/cpu.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "base/check.h"
#include "base/number_formats.h"
#include "kernels/kernels.h"

namespace conclave::backend {

class KvCache {
 public:
  // Keeps what `memory` holds if its key is this one, else clears it. Memory is used page by page
  // as positions are written. `memory` must outlive the cache.
  static Result<KvCache> attach(SharedMemory& memory, std::uint64_t key,
                                const model::ModelConfig& config, std::size_t pages, bool exact);

  std::size_t width() const { return width_; }
  std::size_t pages() const { return pages_; }

  void write(std::size_t layer, PageIndex page, std::size_t slot, std::span<const float> values);
  // The first `n` positions of a page as floats: in place when exact, else converted to `scratch`.
  const float* read(std::size_t layer, PageIndex page, std::size_t n,
                    const kernels::Operations& ops, std::span<float> scratch) const;

 private:
  KvCache(std::byte* data, std::size_t pages, std::size_t width, bool exact)
      : data_(data), pages_(pages), width_(width), exact_(exact) {}
  std::size_t row_index(std::size_t layer, PageIndex page) const {
    CHECK(page < pages_);
    return (layer * pages_ + page) * kPageTokens;
  }

  std::byte* data_ = nullptr;
  std::size_t pages_ = 0;
  std::size_t width_ = 0;
  bool exact_ = false;
};

}  // namespace conclave::backend
