#include "transport/send_queue.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

#include "base/rng.h"

namespace conclave::transport {
namespace {

using Bytes = std::vector<std::byte>;

Bytes numbered(std::size_t size, std::size_t from) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((from + i) * 7 >> 3);
  return bytes;
}

TEST(SendQueue, WhatWasSentAlreadyIsSkipped) {
  SendQueue queue;
  const Bytes a = numbered(10, 0);
  const Bytes b = numbered(10, 10);
  const std::array<std::span<const std::byte>, 3> parts = {a, std::span<const std::byte>{}, b};
  queue.push(parts, 13);
  EXPECT_EQ(queue.size(), 7u);
  std::array<std::span<const std::byte>, 4> pieces;
  ASSERT_EQ(queue.front(pieces), 1u);
  EXPECT_EQ(Bytes(pieces[0].begin(), pieces[0].end()), numbered(7, 13));
}

// Random pushes and pops against the one stream of bytes that they stand for.
TEST(SendQueue, BytesLeaveInOrder) {
  SplitMix random(1);
  SendQueue queue;
  std::size_t pushed = 0;
  std::size_t popped = 0;
  while (pushed < (std::size_t{4} << 20)) {
    const Bytes bytes = numbered(random.next() % (random.next() % 8 == 0 ? 200'000 : 500), pushed);
    const std::span<const std::byte> part = bytes;
    queue.push(std::span(&part, 1), 0);
    pushed += bytes.size();
    ASSERT_EQ(queue.size(), pushed - popped);
    std::array<std::span<const std::byte>, 3> pieces;
    std::size_t held = 0;
    for (std::size_t i = 0, n = queue.front(pieces); i < n; ++i) {
      ASSERT_EQ(Bytes(pieces[i].begin(), pieces[i].end()),
                numbered(pieces[i].size(), popped + held));
      held += pieces[i].size();
    }
    const std::size_t gone = held == 0 ? 0 : random.next() % (held + 1);
    queue.pop(gone);
    popped += gone;
  }
  queue.pop(queue.size());
  EXPECT_TRUE(queue.empty());
  queue.clear();
  EXPECT_EQ(queue.size(), 0u);
}

}  // namespace
}  // namespace conclave::transport
