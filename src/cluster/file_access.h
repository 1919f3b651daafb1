// Reading and writing of files by descriptor, whole or with an error that names the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace conclave::cluster {

// `flags` as of open(2); a new file has mode 0600. kNotFound: there is none.
Result<FileDescriptor> open_file(const std::filesystem::path& path, int flags);
// All of `out`, from `offset` on. kCorrupt: the file ends before.
Result<void> read_at(int fd, std::span<std::byte> out, std::uint64_t offset,
                     const std::filesystem::path& path);
// kExhausted: the disk is full.
Result<void> write_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                      const std::filesystem::path& path);

}  // namespace conclave::cluster
