#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "backend/backend.h"
#include "base/check.h"

namespace conclave::backend {
namespace {

constexpr std::size_t kHeaderBytes = 4096;  // one page, so that the data stays page-aligned

std::string reason() { return std::system_category().message(errno); }

Result<std::byte*> map(int fd, std::size_t size) {
  const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
  void* base = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (base == MAP_FAILED) {
    return exhausted("cannot reserve " + std::to_string(size >> 20) +
                     " MiB for weights: " + reason());
  }
  // Fewer page faults and TLB misses where the kernel has huge pages to give.
  ::madvise(base, size, MADV_HUGEPAGE);
  return static_cast<std::byte*>(base);
}

std::atomic_ref<std::uint64_t> key_of(std::byte* base) {
  return std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(base));
}

}  // namespace

Result<WeightArena> WeightArena::create_private(std::size_t size_bytes) {
  std::byte* base = TRY(map(-1, size_bytes + kHeaderBytes));
  return WeightArena(-1, base, size_bytes + kHeaderBytes, base + kHeaderBytes, size_bytes);
}

Result<WeightArena> WeightArena::create_shared(std::size_t size_bytes) {
  const int fd = ::memfd_create("conclave-weights", MFD_CLOEXEC);
  if (fd < 0) return unavailable("cannot create shared memory: " + reason());
  if (::ftruncate(fd, static_cast<off_t>(size_bytes + kHeaderBytes)) != 0) {
    const std::string why = reason();
    ::close(fd);
    return exhausted("cannot reserve " + std::to_string(size_bytes >> 20) +
                     " MiB of shared memory: " + why);
  }
  Result<WeightArena> arena = attach(fd);
  if (!arena) ::close(fd);
  return arena;
}

Result<WeightArena> WeightArena::attach(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return unavailable("cannot attach the weights: " + reason());
  const auto mapped = static_cast<std::size_t>(info.st_size);
  if (mapped < kHeaderBytes) return corrupt("shared weights are smaller than their header");
  std::byte* base = TRY(map(fd, mapped));
  return WeightArena(fd, base, mapped, base + kHeaderBytes, mapped - kHeaderBytes);
}

WeightArena::WeightArena(WeightArena&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      base_(std::exchange(other.base_, nullptr)),
      mapped_(std::exchange(other.mapped_, 0)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

WeightArena& WeightArena::operator=(WeightArena&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(base_, other.base_);
  std::swap(mapped_, other.mapped_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

WeightArena::~WeightArena() {
  if (base_ != nullptr) ::munmap(base_, mapped_);
  if (fd_ >= 0) ::close(fd_);
}

std::uint64_t WeightArena::filled_key() const {
  return key_of(base_).load(std::memory_order_acquire);
}

void WeightArena::set_filled_key(std::uint64_t key) {
  key_of(base_).store(key, std::memory_order_release);
}

}  // namespace conclave::backend
