#include "backend/cpu/kv_cache.h"

#include <cstring>

#include "base/rng.h"

namespace conclave::backend {
namespace {

constexpr std::uint64_t kLayoutVersion = 1;  // of the pages: another one reads other positions

}  // namespace

std::size_t cpu_page_bytes(const model::ModelConfig& config, bool exact) {
  return config.n_layers * kPageTokens * config.kv_width() *
         (exact ? sizeof(float) : sizeof(std::uint16_t));
}

std::size_t cpu_kv_bytes(const model::ModelConfig& config, const Limits& limits, bool exact) {
  return limits.pages * cpu_page_bytes(config, exact);
}

std::uint64_t cpu_kv_key(const model::ModelSource& source, const CpuOptions& options) {
  std::uint64_t key = hash_combine(source.fingerprint(), kLayoutVersion);
  key = hash_combine(key, options.exact ? 1 : 0);
  key = hash_combine(key, static_cast<std::uint64_t>(options.weights));
  return hash_combine(key, options.limits.pages) | 1u;
}

Result<KvCache> KvCache::attach(SharedMemory& memory, std::uint64_t key,
                                const model::ModelConfig& config, std::size_t pages, bool exact) {
  const std::size_t bytes = pages * cpu_page_bytes(config, exact);
  if (bytes == 0) return invalid_input("the KV cache needs at least one page");
  if (bytes > memory.bytes().size()) {
    return invalid_input("the KV cache needs " + std::to_string(bytes) + " bytes and has " +
                         std::to_string(memory.bytes().size()));
  }
  if (memory.filled_key() != key) {
    memory.clear();
    memory.set_filled_key(key);
  }
  const std::size_t blocks = config.is_grouped() ? 2 * config.n_kv_heads : 1;
  return KvCache(memory.bytes().data(), pages, blocks, config.kv_width() / blocks, exact);
}

void KvCache::write(std::size_t layer, PageIndex page, std::size_t block, std::size_t slot,
                    std::span<const float> values) {
  CHECK(values.size() == width_ && slot < kPageTokens);
  const std::size_t index = (row_index(layer, page, block) + slot) * width_;
  if (exact_) {
    std::memcpy(data_ + index * sizeof(float), values.data(), values.size_bytes());
    return;
  }
  auto* out = reinterpret_cast<std::uint16_t*>(data_) + index;
  for (std::size_t i = 0; i < width_; ++i) out[i] = float_to_bf16(values[i]);
}

const float* KvCache::read(std::size_t layer, PageIndex page, std::size_t block, std::size_t n,
                           const kernels::Operations& ops, std::span<float> scratch) const {
  const std::size_t index = row_index(layer, page, block) * width_;
  if (exact_) return reinterpret_cast<const float*>(data_) + index;
  CHECK(scratch.size() >= n * width_);
  ops.bf16_to_f32({reinterpret_cast<const std::uint16_t*>(data_) + index, n * width_},
                  scratch.data());
  return scratch.data();
}

}  // namespace conclave::backend
