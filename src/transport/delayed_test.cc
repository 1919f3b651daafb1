#include <gtest/gtest.h>

#include "transport/test_group.h"
#include "transport/transport.h"

namespace conclave::transport {
namespace {

using std::chrono::milliseconds;

constexpr Duration kDelay = milliseconds(25);

class DelayedTest : public testing::Test {
 protected:
  std::vector<std::unique_ptr<Transport>> join(std::size_t n) {
    TestGroup group;
    group.spec = {.cluster = 1, .epoch = 1, .rank = 0, .ranks = std::vector<Endpoint>(n)};
    group.fabrics.assign(n, &fabric_);
    return group.transports();
  }

  RealClock clock_;
  LoopbackFabric inner_;
  DelayedFabric fabric_{inner_, clock_, kDelay};
};

TEST_F(DelayedTest, AMessageTakesTheDelayFromItsSending) {
  auto transports = join(2);
  const Time sent = clock_.now();
  send(*transports[0], 1, numbered(100, 1));
  EXPECT_EQ(transports[1]->receive(sent + kDelay / 2).kind, Received::Kind::kDeadline);
  EXPECT_EQ(receive(*transports[1], 0), numbered(100, 1));
  EXPECT_GE(clock_.now(), sent + kDelay);
}

TEST_F(DelayedTest, DelaysOverlapAndWaitingElsewhereCounts) {
  auto transports = join(2);
  const Time sent = clock_.now();
  for (std::size_t i = 0; i < 4; ++i) send(*transports[0], 1, numbered(10, i));
  EXPECT_EQ(transports[0]->receive(sent + 2 * kDelay).kind, Received::Kind::kDeadline);
  for (std::size_t i = 0; i < 4; ++i) {
    const Received received = transports[1]->receive(Time{});
    if (received.kind == Received::Kind::kDeadline) {
      // The first look only took it from the inner transport.
      EXPECT_EQ(receive(*transports[1], 0), numbered(10, i));
      continue;
    }
    EXPECT_EQ(received.message.payload[0], numbered(10, i)[0]);
  }
}

TEST_F(DelayedTest, ManyMessagesArriveInOrder) {
  auto transports = join(3);
  exchange_all_with_all(transports, 500, 30);
}

TEST_F(DelayedTest, LossIsNotDelayed) {
  auto transports = join(2);
  transports[1].reset();
  EXPECT_EQ(transports[0]->receive(soon()).kind, Received::Kind::kPeerLost);
}

}  // namespace
}  // namespace conclave::transport
