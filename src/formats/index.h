// `model.safetensors.index.json`: which shard holds which tensor. docs/models.md 4.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace conclave::formats {

struct IndexEntry {
  std::string tensor;
  std::uint32_t shard = 0;  // into ShardIndex::shards
};

struct ShardIndex {
  std::vector<std::string> shards;  // plain file names, sorted
  std::vector<IndexEntry> entries;  // sorted by tensor, each once
};

// `label` names the file in errors. `metadata` is not read: official files disagree with themselves
// about total_size.
Result<ShardIndex> parse_index(std::span<const std::byte> json, std::string_view label);

}  // namespace conclave::formats
