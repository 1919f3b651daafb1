// Any bytes as a safetensors file and as a shard index: an error or checked views, never a crash.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "formats/formats.h"
#include "formats/index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  if (const auto tensors = conclave::formats::parse_safetensors(bytes, "fuzz.safetensors")) {
    std::size_t total = 0;
    for (const conclave::formats::Tensor& tensor : *tensors) total += tensor.bytes.size();
    CHECK(total <= size);
  }
  if (const auto index = conclave::formats::parse_index(bytes, "fuzz.index.json")) {
    for (const conclave::formats::IndexEntry& entry : index->entries) {
      CHECK(entry.shard < index->shards.size());
    }
  }
  return 0;
}
