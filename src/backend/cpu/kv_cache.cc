#include "backend/cpu/kv_cache.h"

#include <sys/mman.h>

#include <cstring>
#include <utility>

namespace conclave::backend {

Result<KvCache> KvCache::create(std::size_t layers, std::size_t pages, std::size_t width,
                                bool exact) {
  const std::size_t bytes =
      layers * pages * kPageTokens * width * (exact ? sizeof(float) : sizeof(std::uint16_t));
  if (bytes == 0) return invalid_input("the KV cache needs at least one page");
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return exhausted("cannot reserve " + std::to_string(bytes >> 20) + " MiB for the KV cache");
  }
  return KvCache(static_cast<std::byte*>(data), bytes, pages, width, exact);
}

KvCache::KvCache(KvCache&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_),
      pages_(other.pages_),
      width_(other.width_),
      exact_(other.exact_) {}

KvCache::~KvCache() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

void KvCache::write(std::size_t layer, PageIndex page, std::size_t slot,
                    std::span<const float> values) {
  CHECK(values.size() == width_ && slot < kPageTokens);
  const std::size_t index = (row_index(layer, page) + slot) * width_;
  if (exact_) {
    std::memcpy(data_ + index * sizeof(float), values.data(), values.size_bytes());
    return;
  }
  auto* out = reinterpret_cast<std::uint16_t*>(data_) + index;
  for (std::size_t i = 0; i < width_; ++i) out[i] = float_to_bf16(values[i]);
}

const float* KvCache::read(std::size_t layer, PageIndex page, std::size_t n,
                           const kernels::Operations& ops, std::span<float> scratch) const {
  const std::size_t index = row_index(layer, page) * width_;
  if (exact_) return reinterpret_cast<const float*>(data_) + index;
  CHECK(scratch.size() >= n * width_);
  ops.bf16_to_f32({reinterpret_cast<const std::uint16_t*>(data_) + index, n * width_},
                  scratch.data());
  return scratch.data();
}

}  // namespace conclave::backend
