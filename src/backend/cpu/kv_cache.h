// The paged cache: per layer and page, one or more blocks of 64 positions. Latent attention has one
// block of [kv_lora latent | rotated rope key]; grouped attention has two for each KV head, its
// rotated keys (2 * head) and its values (2 * head + 1), so that a head reads its own alone. BF16
// on the fast path, float32 on the exact one. Private to backend/cpu.
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

  void write(std::size_t layer, PageIndex page, std::size_t block, std::size_t slot,
             std::span<const float> values);
  // The first `n` positions of a block as floats: in place when exact, else converted to `scratch`.
  const float* read(std::size_t layer, PageIndex page, std::size_t block, std::size_t n,
                    const kernels::Operations& ops, std::span<float> scratch) const;

 private:
  KvCache(std::byte* data, std::size_t pages, std::size_t blocks, std::size_t width, bool exact)
      : data_(data), pages_(pages), blocks_(blocks), width_(width), exact_(exact) {}
  std::size_t row_index(std::size_t layer, PageIndex page, std::size_t block) const {
    CHECK(page < pages_ && block < blocks_);
    return ((layer * pages_ + page) * blocks_ + block) * kPageTokens;
  }

  std::byte* data_ = nullptr;
  std::size_t pages_ = 0;
  std::size_t blocks_ = 0;
  std::size_t width_ = 0;  // of a block
  bool exact_ = false;
};

}  // namespace conclave::backend
