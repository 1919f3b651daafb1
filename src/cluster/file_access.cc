#include "cluster/file_access.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

namespace conclave::cluster {
namespace {

Error failed(const std::filesystem::path& path, const char* what, int number) {
  const std::string message =
      path.string() + ": cannot " + what + ": " + std::generic_category().message(number);
  if (number == ENOENT) return not_found(message);
  if (number == ENOSPC || number == EDQUOT || number == EFBIG) return exhausted(message);
  return unavailable(message);
}

}  // namespace

Result<FileDescriptor> open_file(const std::filesystem::path& path, int flags) {
  FileDescriptor file(::open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (!file.open()) return failed(path, "open", errno);
  return file;
}

Result<void> read_at(int fd, std::span<std::byte> out, std::uint64_t offset,
                     const std::filesystem::path& path) {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(path, "read", errno);
    if (n == 0) return corrupt(path.string() + ": ends at byte " + std::to_string(offset));
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> write_at(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                      const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(path, "write", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

}  // namespace conclave::cluster
