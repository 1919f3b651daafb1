#include "backend/shared_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace conclave::backend {
namespace {

constexpr std::size_t kBytes = 100'000;

SharedMemory shared() {
  auto memory = SharedMemory::create_shared(kBytes);
  EXPECT_TRUE(memory);
  return std::move(*memory);
}

// As another process would, through a descriptor of its own.
SharedMemory attached(const SharedMemory& memory) {
  auto second = SharedMemory::attach(::dup(memory.fd()));
  EXPECT_TRUE(second);
  return std::move(*second);
}

bool all_zero(const SharedMemory& memory) {
  return std::ranges::all_of(memory.bytes(), [](std::byte b) { return b == std::byte{0}; });
}

TEST(SharedMemory, WhoAttachesSeesBytesAndKey) {
  const SharedMemory memory = shared();
  SharedMemory second = attached(memory);
  EXPECT_EQ(second.bytes().size(), kBytes);
  EXPECT_NE(second.bytes().data(), memory.bytes().data());
  memory.bytes()[kBytes - 1] = std::byte{7};
  EXPECT_EQ(second.bytes()[kBytes - 1], std::byte{7});
  EXPECT_EQ(memory.filled_key(), 0u);
  second.set_filled_key(42);
  EXPECT_EQ(memory.filled_key(), 42u);
}

TEST(SharedMemory, PrivateMemoryHasNoDescriptorAndStaysInPlaceWhenMoved) {
  auto memory = SharedMemory::create_private(kBytes);
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->fd(), -1);
  const std::byte* data = memory->bytes().data();
  const SharedMemory moved = std::move(*memory);
  EXPECT_EQ(moved.bytes().data(), data);
  EXPECT_EQ(moved.bytes().size(), kBytes);
}

TEST(SharedMemory, AFillingThatDiedGoesOnUnderTheSameKeyOnly) {
  SharedMemory memory = shared();
  EXPECT_EQ(memory.start_filling(5), 0u);
  memory.set_filled_parts(3);
  SharedMemory second = attached(memory);
  EXPECT_EQ(second.filled_key(), 0u);
  EXPECT_EQ(second.start_filling(5), 3u);
  EXPECT_EQ(second.start_filling(6), 0u);
  EXPECT_EQ(second.start_filling(5), 0u);
}

TEST(SharedMemory, AFillingThatEndedDoesNotGoOn) {
  SharedMemory memory = shared();
  (void)memory.start_filling(5);
  memory.set_filled_parts(9);
  memory.set_filled_key(5);
  EXPECT_EQ(memory.filled_key(), 5u);
  EXPECT_EQ(memory.start_filling(5), 0u);
  EXPECT_EQ(memory.filled_key(), 0u);
}

TEST(SharedMemory, ClearedMemoryIsZeroAndHasNoKey) {
  for (const bool is_private : {false, true}) {
    SharedMemory memory = is_private ? SharedMemory::create_private(kBytes).value() : shared();
    std::ranges::fill(memory.bytes(), std::byte{1});
    memory.set_filled_key(8);
    memory.clear();
    EXPECT_EQ(memory.filled_key(), 0u);
    EXPECT_TRUE(all_zero(memory));
  }
}

TEST(SharedMemory, AFileWithoutAHeaderIsCorrupt) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const auto memory = SharedMemory::attach(ends[0]);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code, ErrorCode::kCorrupt);
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace conclave::backend
