#include "hub/folder.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <fstream>
#include <system_error>

#include "base/mapped_file.h"

namespace conclave::hub {
namespace {

constexpr std::size_t kManifestBytesMax = std::size_t{32} << 20;
constexpr std::uint64_t kSpareBytes = std::uint64_t{64}
                                      << 20;  // the disk is not filled to its brim

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
  FileDescriptor lock(::open(file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644));
  if (!lock.open()) {
    return unavailable(file.string() + ": " + std::generic_category().message(errno));
  }
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
  return unavailable(name.text() + ": another conclave is working on it; wait for that one");
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
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    bytes += file_bytes(entry.path());
  }
  return bytes;
}

Result<void> write_whole(const std::filesystem::path& file, const std::string& text) {
  const std::filesystem::path next = file.string() + ".new";
  {
    std::ofstream out(next, std::ios::binary | std::ios::trunc);
    out << text;
    out.flush();
    if (!out) return unavailable(next.string() + ": cannot be written");
  }
  return rename_to(next, file);
}

Result<std::optional<Manifest>> read_manifest(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / kManifestName;
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return std::optional<Manifest>{};
  Result<Manifest> manifest = parse_manifest(TRY(read_text_file(file, kManifestBytesMax)));
  if (!manifest) return corrupt(file.string() + ": " + manifest.error().message);
  return std::optional(std::move(*manifest));
}

Result<void> rename_to(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error) return unavailable(to.string() + ": " + error.message());
  return {};
}

}  // namespace conclave::hub
