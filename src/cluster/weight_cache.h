// Packed weights on this machine's disk, so that a restart does not ask the others again.
//
// One file for each arena, `<name>.packed`: a page that says what follows (the arena's key, its
// size, the SHA-256 of its bytes), then the bytes. Written under another name and renamed when
// complete. The bytes are checked when they are read: a file that is damaged is deleted.
//
// Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "backend/backend.h"
#include "base/result.h"

namespace conclave::cluster {

class WeightCache {
 public:
  // Called with bytes that have been read or written; false ends it.
  using Progress = std::function<bool(std::uint64_t bytes)>;

  explicit WeightCache(std::filesystem::path folder) : folder_(std::move(folder)) {}

  // Fills the arena, key included; it must not be filled yet. kNotFound: there is no such file, or
  // it is of another size; kCorrupt: it is damaged, and is deleted; kUnavailable: `progress` ended
  // it. The arena is empty then.
  Result<void> load(const std::string& name, backend::WeightArena& arena, const Progress& progress);

  // Whether a file says that it holds this arena; its bytes are not read.
  bool has(const std::string& name, const backend::WeightArena& arena) const;
  // Writes a filled arena. kExhausted: the disk has no room for it and kRoomLeft more. On an error
  // there is no such file, or the one from before.
  Result<void> store(const std::string& name, const backend::WeightArena& arena,
                     const Progress& progress);
  // Deletes the files of all other arenas.
  void keep_only(const std::set<std::string>& names);

  static constexpr std::uint64_t kRoomLeft = std::uint64_t{256} << 20;

 private:
  std::filesystem::path path_of(const std::string& name) const {
    return folder_ / (name + ".packed");
  }

  std::filesystem::path folder_;
};

}  // namespace conclave::cluster
