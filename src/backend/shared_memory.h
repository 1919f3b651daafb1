// Memory that outlives the process that fills it: packed weights and the KV cache live there, so
// that a new worker attaches to what a dead one had.
//
//   auto arena = TRY(SharedMemory::create_shared(bytes));      // the agent; the worker gets fd()
//   auto same = TRY(SharedMemory::attach(fd));                 // the worker
//
// A page before the bytes says what they are: the key of the complete contents, or how far the
// filling has come, so that a loader that died half-way is followed by one that goes on.
//
// Threads: one at a time fills; the key may be read from any thread and process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace conclave::backend {

class SharedMemory {
 public:
  // Bytes are reserved now, zero, and take memory when written. Private: anonymous memory of this
  // process. `attach` takes over a descriptor of memory made by create_shared, in any process.
  static Result<SharedMemory> create_private(std::size_t size_bytes);
  static Result<SharedMemory> create_shared(std::size_t size_bytes);
  static Result<SharedMemory> attach(int fd);

  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();

  int fd() const { return fd_; }  // -1 when private
  // Page-aligned; stays in place when the object moves.
  std::span<std::byte> bytes() const { return {data_, size_}; }

  // The key of the complete contents, 0 while they are not.
  std::uint64_t filled_key() const;
  void set_filled_key(std::uint64_t key);

  // Begins to fill with what `key` stands for; returns how many parts of it are there already,
  // which is 0 unless the last filling was of the same key and did not end.
  std::uint64_t start_filling(std::uint64_t key);
  void set_filled_parts(std::uint64_t parts);

  // Back to zeros without a key; the memory is given back.
  void clear();
  // Asks for huge pages, for memory that is read from end to end: fewer faults and TLB misses.
  void use_huge_pages() const;

 private:
  SharedMemory(int fd, std::byte* base, std::size_t mapped, std::byte* data, std::size_t size)
      : fd_(fd), base_(base), mapped_(mapped), data_(data), size_(size) {}

  int fd_ = -1;
  std::byte* base_ = nullptr;  // a header page, then the data
  std::size_t mapped_ = 0;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Memory for packed weights: one arena for what all slices of a model need, one for each slice.
using WeightArena = SharedMemory;

}  // namespace conclave::backend
