#include "hub/folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "base/mapped_file.h"

namespace conclave::hub {
namespace {

constexpr std::size_t kManifestBytesMax = std::size_t{32} << 20;
constexpr std::uint64_t kSpareBytes = std::uint64_t{64}
                                      << 20;  // the disk is not filled to its brim

std::string system_text(int error) { return std::generic_category().message(error); }

std::string in_gigabytes(std::uint64_t bytes) {
  const std::uint64_t tenths = (bytes + 99'999'999) / 100'000'000;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " GB";
}

}  // namespace

Result<FileDescriptor> lock_model(const std::filesystem::path& dir, const ModelName& name) {
  std::error_code error;
  std::filesystem::create_directories(dir.parent_path(), error);
  if (error) return unavailable(dir.parent_path().string() + ": " + error.message());
  const std::filesystem::path file = dir.string() + ".lock";
  while (true) {
    FileDescriptor lock(::open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!lock.open()) return unavailable(file.string() + ": " + system_text(errno));
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return unavailable(file.string() + ": " + system_text(errno));
      return unavailable(name.text() + ": another conclave is working on it; wait for that one");
    }
    // Its last holder may have removed the file: then this is nobody's lock.
    struct stat held {};
    struct stat named {};
    if (::fstat(lock.get(), &held) == 0 && ::stat(file.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino) {
      return lock;
    }
  }
}

std::filesystem::path partial_of(const std::filesystem::path& dir) {
  return dir.string() + ".partial";
}

Result<void> check_space(const std::filesystem::path& dir, std::uint64_t needed) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(dir, error);
  if (error) return unavailable(dir.string() + ": " + error.message());
  if (space.available >= needed + kSpareBytes) return {};
  return exhausted(dir.string() + ": needs " + in_gigabytes(needed) + " more and " +
                   in_gigabytes(space.available) +
                   " are free: make room, or set CONCLAVE_MODELS to a larger disk");
}

std::uint64_t file_bytes(const std::filesystem::path& file) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(file, error);
  return error ? 0 : size;
}

std::uint64_t folder_bytes(const std::filesystem::path& dir) {
  std::uint64_t bytes = 0;
  for (const std::filesystem::path& entry : entries_of(dir)) bytes += file_bytes(entry);
  return bytes;
}

std::vector<std::filesystem::path> entries_of(const std::filesystem::path& dir) {
  std::vector<std::filesystem::path> entries;
  std::error_code error;
  std::filesystem::directory_iterator it(dir, error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    entries.push_back(it->path());
  }
  return entries;
}

bool write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return true;
}

Result<void> write_whole(const std::filesystem::path& file, const std::string& text) {
  const std::filesystem::path next = file.string() + ".new";
  std::error_code ignored;
  std::filesystem::remove(next, ignored);
  const FileDescriptor out(
      ::open(next.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0644));
  const auto failed = [&next] { return exhausted(next.string() + ": " + system_text(errno)); };
  if (!out.open()) return failed();
  if (!write_all(out.get(), std::as_bytes(std::span(text)))) return failed();
  if (::fsync(out.get()) != 0) return failed();
  return rename_to(next, file);
}

Result<std::optional<Manifest>> read_manifest(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / kManifestName;
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return std::optional<Manifest>{};
  Result<Manifest> manifest = parse_manifest(TRY(read_text_file(file, kManifestBytesMax)));
  if (!manifest) {
    return corrupt(file.string() + ": " + manifest.error().message +
                   ": remove the model with conclave model rm, and fetch it again");
  }
  return std::optional(std::move(*manifest));
}

Result<void> rename_to(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error) return unavailable(to.string() + ": " + error.message());
  return {};
}

Result<void> replace_folder(const std::filesystem::path& whole, const std::filesystem::path& dir) {
  std::error_code error;
  if (!std::filesystem::exists(dir, error)) return rename_to(whole, dir);
  if (::renameat2(AT_FDCWD, whole.c_str(), AT_FDCWD, dir.c_str(), RENAME_EXCHANGE) == 0) {
    std::filesystem::remove_all(whole, error);  // the old one
    return {};
  }
  std::filesystem::remove_all(dir, error);  // a file system that cannot exchange
  if (error) return unavailable(dir.string() + ": " + error.message());
  return rename_to(whole, dir);
}

}  // namespace conclave::hub
