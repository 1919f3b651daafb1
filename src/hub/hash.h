// Hashes of files as hubs give them. Private to hub/.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "hub/hub.h"

namespace conclave::hub {

class Hasher {
 public:
  // `size`: of the whole file; git's hash begins with it.
  Hasher(Digest::Kind kind, std::uint64_t size);
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  void add(std::span<const std::byte> bytes);
  std::string hex();  // once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The hash of a file on disk. `bytes_read`: after each piece, may stop the work: nullopt then.
Result<std::optional<std::string>> hash_file(const std::filesystem::path& path, Digest::Kind kind,
                                             const std::function<bool(std::uint64_t)>& bytes_read);

}  // namespace conclave::hub
