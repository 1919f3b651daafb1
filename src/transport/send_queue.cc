#include "transport/send_queue.h"

#include <algorithm>

#include "base/check.h"

namespace conclave::transport {
namespace {

// Small messages share a chunk, so that a queue of many of them is not many allocations.
constexpr std::size_t kChunkBytes = std::size_t{64} << 10;

}  // namespace

void SendQueue::push(std::span<const std::span<const std::byte>> parts, std::size_t skip) {
  for (const std::span<const std::byte> part : parts) {
    const std::size_t gone = std::min(skip, part.size());
    skip -= gone;
    append(part.subspan(gone));
  }
}

void SendQueue::append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  if (chunks_.empty() || chunks_.back().size() + bytes.size() > kChunkBytes) {
    chunks_.emplace_back().reserve(std::max(bytes.size(), kChunkBytes));
  }
  chunks_.back().insert(chunks_.back().end(), bytes.begin(), bytes.end());
  size_ += bytes.size();
}

std::size_t SendQueue::front(std::span<std::span<const std::byte>> pieces) const {
  const std::size_t n = std::min(pieces.size(), chunks_.size());
  for (std::size_t i = 0; i < n; ++i) pieces[i] = chunks_[i];
  if (n > 0) pieces[0] = pieces[0].subspan(begin_);
  return n;
}

void SendQueue::pop(std::size_t n) {
  CHECK(n <= size_);
  size_ -= n;
  begin_ += n;
  while (!chunks_.empty() && begin_ >= chunks_.front().size()) {
    begin_ -= chunks_.front().size();
    chunks_.pop_front();
  }
}

void SendQueue::clear() {
  chunks_.clear();
  begin_ = size_ = 0;
}

}  // namespace conclave::transport
