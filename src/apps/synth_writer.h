// Writes a synthetic checkpoint folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "apps/synth_tensors.h"
#include "base/result.h"

namespace conclave::apps {

inline constexpr std::uint64_t kShardBytes = 4'000'000'000;

// Tensors of one safetensors file, in file order: widest elements first, so that each is aligned
// to its own size.
struct SynthShard {
  std::string file_name;  // "model-00001-of-00002.safetensors"
  std::vector<SynthTensor> tensors;
  std::uint64_t data_bytes = 0;
};

// Splits a table in its order into shards of at most `shard_bytes` (a larger tensor has its own).
std::vector<SynthShard> plan_shards(std::vector<SynthTensor> table, std::uint64_t shard_bytes);

// The length and JSON header of a safetensors file, padded to 8 bytes.
std::string shard_header(const SynthShard& shard);
// model.safetensors.index.json
std::string index_json(const std::vector<SynthShard>& shards);

struct SynthProgress {
  std::function<void(std::uint64_t done, std::uint64_t total)> update;  // bytes
  std::function<bool()> stop_wanted;
};

// Writes everything with `threads` threads. `dir` must not exist or be empty. On any error, and
// when stop_wanted says so (kUnavailable), what was written is removed again.
Result<void> write_checkpoint(const SynthModel& model, const std::filesystem::path& dir,
                              std::size_t threads, const SynthProgress& progress);

}  // namespace conclave::apps
