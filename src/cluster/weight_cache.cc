#include "cluster/weight_cache.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>

#include "base/check.h"
#include "cluster/bulk_messages.h"
#include "cluster/file_access.h"

namespace conclave::cluster {
namespace {

constexpr std::string_view kMagic = "conclave packed1";
constexpr std::size_t kHeaderBytes = 4096;  // a page, so that the rest is aligned
constexpr std::size_t kChunk = std::size_t{8} << 20;
constexpr std::string_view kSuffix = ".packed";

// 0 magic · 16 key u64 · 24 size u64 · 32 hash, little-endian.
struct Header {
  std::uint64_t key = 0;
  std::uint64_t bytes = 0;
  Hash hash{};
};

std::array<std::byte, kHeaderBytes> encode(const Header& header) {
  std::array<std::byte, kHeaderBytes> out{};
  std::memcpy(out.data(), kMagic.data(), kMagic.size());
  std::memcpy(out.data() + 16, &header.key, sizeof header.key);
  std::memcpy(out.data() + 24, &header.bytes, sizeof header.bytes);
  std::ranges::copy(header.hash, out.begin() + 32);
  return out;
}

Result<Header> read_header(int fd, const std::filesystem::path& path) {
  std::array<std::byte, kHeaderBytes> bytes;
  TRY(read_at(fd, bytes, 0, path));
  if (std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    return corrupt(path.string() + ": holds no packed weights");
  }
  Header header;
  std::memcpy(&header.key, bytes.data() + 16, sizeof header.key);
  std::memcpy(&header.bytes, bytes.data() + 24, sizeof header.bytes);
  std::ranges::copy(std::span(bytes).subspan(32, header.hash.size()), header.hash.begin());
  return header;
}

// Calls each with the next bytes of `all` and where they lie in the file. The pages of the file are
// given back: the arena holds the same bytes.
template <class Each>
Result<void> in_chunks(int fd, std::span<std::byte> all, const WeightCache::Progress& progress,
                       const Each& each) {
  for (std::size_t done = 0; done < all.size();) {
    const std::size_t n = std::min(kChunk, all.size() - done);
    TRY(each(all.subspan(done, n), kHeaderBytes + done));
    ::posix_fadvise(fd, static_cast<off_t>(kHeaderBytes + done), static_cast<off_t>(n),
                    POSIX_FADV_DONTNEED);
    done += n;
    if (!progress(n)) return unavailable("no longer wanted");
  }
  return {};
}

}  // namespace

Result<void> WeightCache::load(const std::string& name, backend::WeightArena& arena,
                               const Progress& progress) {
  CHECK(arena.filled_key() == 0);
  const std::filesystem::path path = path_of(name);
  const FileDescriptor file = TRY(open_file(path, O_RDONLY));
  const Result<Header> header = read_header(file.get(), path);
  Hasher hasher;
  Result<void> read = header ? Result<void>() : header.error();
  if (header && header->bytes != arena.bytes().size()) {
    return not_found(path.string() + ": is of another division");
  }
  if (read) {
    arena.set_filled_key(0);  // what another filling has left there goes
    read = in_chunks(file.get(), arena.bytes(), progress,
                     [&](std::span<std::byte> chunk, std::size_t offset) -> Result<void> {
                       TRY(read_at(file.get(), chunk, offset, path));
                       hasher.add(chunk);
                       return {};
                     });
  }
  if (read && hasher.finish() != header->hash) {
    read = corrupt(path.string() + ": is damaged: its bytes are not those that were written");
  }
  if (read) {
    arena.set_filled_key(header->key);
    return {};
  }
  arena.clear();
  std::error_code ignored;
  if (read.error().code == ErrorCode::kCorrupt) std::filesystem::remove(path, ignored);
  return read;
}

bool WeightCache::has(const std::string& name, const backend::WeightArena& arena) const {
  const std::filesystem::path path = path_of(name);
  const Result<FileDescriptor> file = open_file(path, O_RDONLY);
  if (!file) return false;
  const Result<Header> header = read_header(file->get(), path);
  return header && header->key == arena.filled_key() && header->bytes == arena.bytes().size();
}

Result<void> WeightCache::store(const std::string& name, const backend::WeightArena& arena,
                                const Progress& progress) {
  CHECK(arena.filled_key() != 0);
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  const std::filesystem::path path = path_of(name);
  const std::filesystem::path unfinished = path.string() + ".new";
  std::filesystem::remove(unfinished, error);
  const std::filesystem::space_info space = std::filesystem::space(folder_, error);
  const std::uint64_t needed = arena.bytes().size() + kRoomLeft;
  if (!error && space.available < needed) {
    return exhausted(folder_.string() + ": " + std::to_string(space.available >> 20) +
                     " MiB are free, " + std::to_string(needed >> 20) + " MiB are needed");
  }
  const auto write = [&]() -> Result<void> {
    const FileDescriptor file = TRY(open_file(unfinished, O_RDWR | O_CREAT | O_TRUNC));
    Hasher hasher;
    TRY(in_chunks(file.get(), arena.bytes(), progress,
                  [&](std::span<std::byte> chunk, std::size_t offset) -> Result<void> {
                    hasher.add(chunk);
                    return write_at(file.get(), chunk, offset, unfinished);
                  }));
    const auto header = encode({arena.filled_key(), arena.bytes().size(), hasher.finish()});
    TRY(write_at(file.get(), header, 0, unfinished));
    if (::fsync(file.get()) != 0) {
      return exhausted(unfinished.string() +
                       ": cannot be written: " + std::generic_category().message(errno));
    }
    return {};
  };
  Result<void> written = write();
  if (written) {
    std::filesystem::rename(unfinished, path, error);
    if (error) written = unavailable(path.string() + ": cannot be made: " + error.message());
  }
  if (!written) std::filesystem::remove(unfinished, error);
  return written;
}

void WeightCache::keep_only(const std::set<std::string>& names) {
  std::error_code error;
  std::filesystem::directory_iterator entry(folder_, error);
  std::vector<std::filesystem::path> unwanted;
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string file = entry->path().filename().string();
    const std::size_t end = file.rfind(kSuffix);
    if (end != std::string::npos && !names.contains(file.substr(0, end))) {
      unwanted.push_back(entry->path());
    }
  }
  for (const std::filesystem::path& path : unwanted) {
    std::filesystem::remove(path, error);
    spdlog::info("weights deleted file={}", path.string());
  }
}

}  // namespace conclave::cluster
