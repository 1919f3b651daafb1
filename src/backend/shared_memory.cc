#include "backend/shared_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace conclave::backend {
namespace {

constexpr std::size_t kHeaderBytes = 4096;  // one page, so that the data stays page-aligned

// 64-bit words of the header.
enum class Word : std::size_t { kFilledKey, kFillingKey, kFilledParts };

std::atomic_ref<std::uint64_t> word(std::byte* base, Word which) {
  return std::atomic_ref<std::uint64_t>(
      reinterpret_cast<std::uint64_t*>(base)[static_cast<std::size_t>(which)]);
}

std::string reason() { return std::system_category().message(errno); }

Result<std::byte*> map(int fd, std::size_t size) {
  const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
  void* base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (base == MAP_FAILED) {
    return exhausted("cannot reserve " + std::to_string(size >> 20) +
                     " MiB of memory: " + reason());
  }
  return static_cast<std::byte*>(base);
}

}  // namespace

Result<SharedMemory> SharedMemory::create_private(std::size_t size_bytes) {
  std::byte* base = TRY(map(-1, size_bytes + kHeaderBytes));
  return SharedMemory(-1, base, size_bytes + kHeaderBytes, base + kHeaderBytes, size_bytes);
}

Result<SharedMemory> SharedMemory::create_shared(std::size_t size_bytes) {
  const int fd = ::memfd_create("conclave", MFD_CLOEXEC);
  if (fd < 0) return unavailable("cannot create shared memory: " + reason());
  if (::ftruncate(fd, static_cast<off_t>(size_bytes + kHeaderBytes)) != 0) {
    const std::string why = reason();
    ::close(fd);
    return exhausted("cannot reserve " + std::to_string(size_bytes >> 20) +
                     " MiB of shared memory: " + why);
  }
  Result<SharedMemory> memory = attach(fd);
  if (!memory) ::close(fd);
  return memory;
}

Result<SharedMemory> SharedMemory::attach(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return unavailable("cannot attach shared memory: " + reason());
  const auto mapped = static_cast<std::size_t>(info.st_size);
  if (mapped < kHeaderBytes) return corrupt("shared memory is smaller than its header");
  std::byte* base = TRY(map(fd, mapped));
  return SharedMemory(fd, base, mapped, base + kHeaderBytes, mapped - kHeaderBytes);
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      base_(std::exchange(other.base_, nullptr)),
      mapped_(std::exchange(other.mapped_, 0)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(base_, other.base_);
  std::swap(mapped_, other.mapped_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (base_ != nullptr) ::munmap(base_, mapped_);
  if (fd_ >= 0) ::close(fd_);
}

std::uint64_t SharedMemory::filled_key() const {
  return word(base_, Word::kFilledKey).load(std::memory_order_acquire);
}

void SharedMemory::set_filled_key(std::uint64_t key) {
  word(base_, Word::kFillingKey).store(0, std::memory_order_release);
  word(base_, Word::kFilledKey).store(key, std::memory_order_release);
}

// The process may die between any two of these stores: the filling key is the last to be set, so
// that it never stands beside another filling's count.
std::uint64_t SharedMemory::start_filling(std::uint64_t key) {
  CHECK(key != 0);
  word(base_, Word::kFilledKey).store(0, std::memory_order_release);
  if (word(base_, Word::kFillingKey).load(std::memory_order_acquire) == key) {
    return word(base_, Word::kFilledParts).load(std::memory_order_acquire);
  }
  word(base_, Word::kFillingKey).store(0, std::memory_order_release);
  word(base_, Word::kFilledParts).store(0, std::memory_order_release);
  word(base_, Word::kFillingKey).store(key, std::memory_order_release);
  return 0;
}

void SharedMemory::set_filled_parts(std::uint64_t parts) {
  word(base_, Word::kFilledParts).store(parts, std::memory_order_release);
}

void SharedMemory::clear() {
  set_filled_key(0);
  if (size_ == 0) return;
  // MADV_REMOVE punches a hole into the memfd; private memory has nothing behind it.
  const int failed = ::madvise(data_, size_, fd_ < 0 ? MADV_DONTNEED : MADV_REMOVE);
  CHECK(failed == 0);
}

void SharedMemory::use_huge_pages() const {
  if (size_ > 0) ::madvise(data_, size_, MADV_HUGEPAGE);
}

}  // namespace conclave::backend
