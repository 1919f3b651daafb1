#include <gtest/gtest.h>

#include "transport/test_group.h"
#include "transport/transport.h"

namespace conclave::transport {
namespace {

using std::chrono::milliseconds;

TestGroup group_of(LoopbackFabric& fabric, std::size_t n, std::uint32_t epoch) {
  TestGroup group;
  group.spec = {.cluster = 1, .epoch = epoch, .rank = 0, .ranks = std::vector<Endpoint>(n)};
  group.fabrics.assign(n, &fabric);
  return group;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(LoopbackFabric, ThreeRanksExchange) {
  LoopbackFabric fabric;
  for (std::uint32_t epoch = 1; epoch < 3; ++epoch) {
    auto transports = group_of(fabric, 3, epoch).transports();
    exchange_all_with_all(transports, 1000, 50);
    EXPECT_EQ(transports[0]->stats()[1].bytes_sent, 50u * 1032);
    EXPECT_EQ(transports[0]->stats()[2].messages_received, 50u);
  }
}

TEST(LoopbackFabric, HeadersAreFilled) {
  LoopbackFabric fabric;
  auto transports = group_of(fabric, 2, 9).transports();
  send(*transports[0], 1, bytes_of("a"));
  send(*transports[0], 1, bytes_of("bc"));
  for (std::uint32_t sequence = 0; sequence < 2; ++sequence) {
    const Received received = transports[1]->receive(soon());
    EXPECT_EQ(received.message.header.sequence, sequence);
    EXPECT_EQ(received.message.header.epoch, 9u);
    EXPECT_EQ(received.message.header.size, sequence + 1);
  }
}

TEST(LoopbackFabric, AKilledRankIsLostAfterItsWords) {
  LoopbackFabric fabric;
  auto transports = group_of(fabric, 3, 1).transports();
  send(*transports[2], 0, bytes_of("last"));
  fabric.kill(2);
  send(*transports[2], 0, bytes_of("never said"));
  EXPECT_EQ(receive(*transports[0], 2).size(), 4u);
  send(*transports[1], 0, bytes_of("x"));
  EXPECT_EQ(receive(*transports[0], 1).size(), 1u);
  for (int i = 0; i < 2; ++i) {
    const Received lost = transports[0]->receive(soon());
    EXPECT_EQ(lost.kind, Received::Kind::kPeerLost);
    EXPECT_EQ(lost.lost, 2);
    send(*transports[1], 0, bytes_of("x"));
  }
  EXPECT_EQ(transports[2]->receive(soon()).kind, Received::Kind::kInterrupted);
}

TEST(LoopbackFabric, AnEndedTransportIsLost) {
  LoopbackFabric fabric;
  auto transports = group_of(fabric, 2, 1).transports();
  std::thread ends([&transports] { transports[1].reset(); });
  EXPECT_EQ(transports[0]->receive(soon()).kind, Received::Kind::kPeerLost);
  ends.join();
}

TEST(LoopbackFabric, DeadlineAndWatchEndAWait) {
  LoopbackFabric fabric;
  TestWatch watch;
  auto transports = group_of(fabric, 2, 1).transports({&watch, nullptr});
  EXPECT_EQ(transports[1]->receive(in(milliseconds(10))).kind, Received::Kind::kDeadline);
  watch.say_something_else();
  EXPECT_EQ(transports[0]->receive(in(milliseconds(10))).kind, Received::Kind::kDeadline);
  std::thread agent([&watch] { watch.interrupt(); });
  EXPECT_EQ(transports[0]->receive(Time::max()).kind, Received::Kind::kInterrupted);
  agent.join();
  EXPECT_EQ(transports[0]->receive(Time::max()).kind, Received::Kind::kInterrupted);
}

TEST(LoopbackFabric, AnIncompleteGroupIsAnError) {
  LoopbackFabric fabric;
  TestGroup group = group_of(fabric, 2, 1);
  const auto alone = fabric.join(group.spec, in(milliseconds(10)), nullptr);
  ASSERT_FALSE(alone);
  EXPECT_EQ(alone.error().message, "rank 1 did not join");
  TestWatch watch;
  watch.interrupt();
  EXPECT_FALSE(fabric.join(group.spec, Time::max(), &watch));
  EXPECT_EQ(group.transports().size(), 2u);
  EXPECT_FALSE(fabric.join(group.spec, soon(), nullptr)) << "a rank joins an epoch once";
}

}  // namespace
}  // namespace conclave::transport
