// Bytes that a link did not take yet, in order.
#pragma once

#include <cstddef>
#include <deque>
#include <span>
#include <vector>

namespace conclave::transport {

class SendQueue {
 public:
  // Keeps the bytes of `parts` after the first `skip`.
  void push(std::span<const std::span<const std::byte>> parts, std::size_t skip);
  // The first bytes, as at most `pieces.size()` pieces; says how many.
  std::size_t front(std::span<std::span<const std::byte>> pieces) const;
  void pop(std::size_t n);
  void clear();

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }

 private:
  void append(std::span<const std::byte> bytes);

  std::deque<std::vector<std::byte>> chunks_;  // none is empty
  std::size_t begin_ = 0;                      // of the first chunk: what is gone already
  std::size_t size_ = 0;
};

}  // namespace conclave::transport
