#include "transport/shm_lane.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "transport/test_group.h"

namespace conclave::transport {
namespace {

struct Lanes {
  Lanes() {
    auto listener = LaneListener::make();
    CHECK(listener.has_value());
    caller = connect_lane(listener->name()).value();
    acceptor = listener->accept().value();
  }
  std::optional<ShmLane> caller;
  std::optional<ShmLane> acceptor;
};

IoResult write(ShmLane& lane, std::span<const std::byte> bytes) {
  return lane.write_some(std::span(&bytes, 1));
}

bool readable(const ShmLane& lane, int timeout_ms) {
  pollfd fd{lane.fd(), POLLIN, 0};
  return poll(&fd, 1, timeout_ms) == 1;
}

void sleep_until_woken(ShmLane& lane, bool for_bytes, bool for_room) {
  const bool wait = lane.prepare_wait(for_bytes, for_room);
  lane.finish_wait(readable(lane, wait ? 10'000 : 0));
}

TEST(ShmLane, BytesPassBothWays) {
  Lanes lanes;
  Bytes got(100);
  for (const auto& [from, to] :
       {std::pair(&*lanes.caller, &*lanes.acceptor), std::pair(&*lanes.acceptor, &*lanes.caller)}) {
    EXPECT_EQ(to->read_some(got).status, IoStatus::kWantRead);
    const Bytes bytes = numbered(77, 3);
    EXPECT_EQ(write(*from, bytes).bytes, 77u);
    const IoResult read = to->read_some(got);
    EXPECT_EQ(read.bytes, 77u);
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), got.begin()));
  }
}

TEST(ShmLane, AFullRingTakesNoMore) {
  Lanes lanes;
  const Bytes bytes = numbered(ShmLane::kRingBytes + 1000, 3);
  EXPECT_EQ(write(*lanes.caller, bytes).bytes, ShmLane::kRingBytes);
  EXPECT_EQ(write(*lanes.caller, bytes).status, IoStatus::kWantWrite);
  Bytes got(10);
  EXPECT_EQ(lanes.acceptor->read_some(got).bytes, 10u);
  EXPECT_EQ(write(*lanes.caller, bytes).bytes, 10u);
}

// Pieces of random sizes, each side sleeping whenever it cannot go on: nothing may be lost, and no
// wake-up missed.
TEST(ShmLane, AStreamOfPiecesArrivesAsItWas) {
  constexpr std::size_t kTotal = std::size_t{30} << 20;
  Lanes lanes;
  std::thread writer([&lanes] {
    SplitMix random(7);
    for (std::size_t sent = 0; sent < kTotal;) {
      const std::size_t size = std::min<std::size_t>(
          kTotal - sent, 1 + random.next() % (random.next() % 4 ? 900 : 90'000));
      const Bytes bytes = numbered(size, sent);
      for (std::size_t done = 0; done < size;) {
        const IoResult result = write(*lanes.caller, std::span(bytes).subspan(done));
        done += result.bytes;
        if (result.status == IoStatus::kWantWrite) sleep_until_woken(*lanes.caller, false, true);
      }
      sent += size;
    }
  });
  SplitMix random(8);
  std::size_t got = 0;
  bool right = true;
  while (got < kTotal) {
    Bytes into(1 + random.next() % 50'000);
    const IoResult result = lanes.acceptor->read_some(into);
    if (result.status == IoStatus::kWantRead) {
      sleep_until_woken(*lanes.acceptor, true, false);
      continue;
    }
    ASSERT_EQ(result.status, IoStatus::kDone);
    into.resize(result.bytes);
    right = right && into == numbered(result.bytes, got);
    got += result.bytes;
  }
  writer.join();
  EXPECT_TRUE(right);
}

TEST(ShmLane, TheEndComesAfterTheLastByte) {
  Lanes lanes;
  EXPECT_EQ(write(*lanes.caller, numbered(5, 0)).bytes, 5u);
  lanes.caller.reset();
  ASSERT_TRUE(readable(*lanes.acceptor, 10'000));
  lanes.acceptor->finish_wait(true);
  Bytes got(10);
  EXPECT_EQ(lanes.acceptor->read_some(got).bytes, 5u);
  EXPECT_EQ(lanes.acceptor->read_some(got).status, IoStatus::kClosed);
  EXPECT_EQ(write(*lanes.acceptor, got).status, IoStatus::kClosed);
}

TEST(ShmLane, AnAwakePeerIsNotWoken) {
  Lanes lanes;
  write(*lanes.caller, numbered(5, 0));
  EXPECT_FALSE(readable(*lanes.acceptor, 0));
  EXPECT_FALSE(lanes.acceptor->prepare_wait(true, false));
  lanes.acceptor->finish_wait(false);
  Bytes got(10);
  lanes.acceptor->read_some(got);
  EXPECT_TRUE(lanes.acceptor->prepare_wait(true, false));
  write(*lanes.caller, numbered(5, 0));
  EXPECT_TRUE(readable(*lanes.acceptor, 10'000));
}

TEST(LaneListener, SomethingElseIsNotTaken) {
  auto listener = LaneListener::make();
  ASSERT_TRUE(listener);
  EXPECT_FALSE(listener->accept());
  LaneName other = listener->name();
  other[0] ^= std::byte{1};
  EXPECT_FALSE(connect_lane(other));
  // A lane that was asked for on another listener does not come here.
  auto second = LaneListener::make();
  ASSERT_TRUE(connect_lane(second->name()));
  EXPECT_FALSE(listener->accept());
  EXPECT_TRUE(second->accept());
}

}  // namespace
}  // namespace conclave::transport
