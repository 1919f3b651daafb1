// A read-only memory-mapped file. The bytes are untrusted: check before use.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "base/result.h"

namespace conclave {

class MappedFile {
 public:
  // Errors name the path and the operating system's reason.
  static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // Tells the kernel that [offset, offset + size) is not needed again, so that loading a model
  // does not keep the source pages beside the repacked weights. Any range is legal.
  void drop(std::size_t offset, std::size_t size) const;

 private:
  MappedFile(const std::byte* data, std::size_t size, std::filesystem::path path)
      : data_(data), size_(size), path_(std::move(path)) {}

  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::filesystem::path path_;
};

// Reads a whole small file (configs, templates). Larger than `size_max` is an error.
Result<std::string> read_text_file(const std::filesystem::path& path, std::size_t size_max);

}  // namespace conclave
