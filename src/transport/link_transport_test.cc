#include "transport/link_transport.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <optional>

#include "transport/test_group.h"

namespace conclave::transport {
namespace {

constexpr std::size_t kPeers = 3;

std::unique_ptr<Link> make_link(Rank peer, int fd) {
  return std::make_unique<Link>(
      peer, 1,
      Link::Limits{.queue_bytes_max = std::size_t{1} << 20, .silence_max = std::chrono::seconds(2)},
      SecureStream::clear(fd), std::nullopt);
}

// Rank 0 of a group of four, and links of the other ranks to it.
class LinkTransportTest : public testing::Test {
 protected:
  LinkTransportTest() {
    std::vector<std::unique_ptr<Link>> links(1 + kPeers);
    for (std::size_t i = 0; i < kPeers; ++i) {
      std::array<int, 2> fds{};
      CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
      const auto peer = static_cast<Rank>(i + 1);
      links[peer] = make_link(peer, fds[0]);
      peers_.push_back(make_link(0, fds[1]));
    }
    transport_.emplace(clock_, Rank{0}, std::move(links), Duration::zero(), nullptr);
  }

  void say(Rank peer) {
    const std::byte byte{1};
    const std::span<const std::byte> part(&byte, 1);
    peers_[peer - 1u]->send({}, std::span(&part, 1));
  }

  RealClock clock_;
  std::vector<std::unique_ptr<Link>> peers_;
  std::optional<LinkTransport> transport_;
};

TEST_F(LinkTransportTest, NoPeerIsStarved) {
  for (int i = 0; i < 4; ++i) {
    for (Rank peer = 1; peer <= kPeers; ++peer) say(peer);
  }
  for (int i = 0; i < 4; ++i) {
    for (Rank peer = 1; peer <= kPeers; ++peer) {
      EXPECT_EQ(transport_->receive(Time{}).message.from, peer);
    }
  }
  EXPECT_EQ(transport_->receive(Time{}).kind, Received::Kind::kDeadline);
}

// However many messages the others send.
TEST_F(LinkTransportTest, ALossIsToldBeforeOtherMessages) {
  peers_[1].reset();
  for (int i = 0; i < 10; ++i) {
    say(1);
    say(3);
  }
  int messages = 0;
  Received received = transport_->receive(soon());
  for (; received.kind == Received::Kind::kMessage; received = transport_->receive(soon())) {
    ++messages;
  }
  EXPECT_EQ(received.kind, Received::Kind::kPeerLost);
  EXPECT_EQ(received.lost, 2);
  EXPECT_LE(messages, 2);
}

TEST_F(LinkTransportTest, AFailedSendIsReportedByTheNextReceive) {
  peers_[0].reset();
  const Bytes bytes(100);
  for (int i = 0; i < 3; ++i) conclave::transport::send(*transport_, 1, bytes);
  say(2);
  const Received lost = transport_->receive(soon());
  EXPECT_EQ(lost.kind, Received::Kind::kPeerLost);
  EXPECT_EQ(lost.lost, 1);
}

TEST_F(LinkTransportTest, FlushWaitsForRoomOnly) {
  const Bytes bytes(std::size_t{900} << 10);
  conclave::transport::send(*transport_, 1, bytes);
  say(2);  // readable, which must not keep flush() awake or from its deadline
  transport_->flush(in(std::chrono::milliseconds(10)));
  std::thread reader([this] {
    while (!peers_[0]->read()) {
    }
  });
  transport_->flush(soon());
  reader.join();
  EXPECT_EQ(transport_->receive(Time{}).message.from, 2);
}

// Real time, and each look at it takes so long besides.
class SlowClock final : public Clock {
 public:
  explicit SlowClock(Duration look) : look_(look) {}
  Time now() const override { return real_.now() + look_ * ++looks_; }
  int looks() const { return looks_; }

 private:
  RealClock real_;
  Duration look_;
  mutable int looks_ = 0;
};

// How often a rank that may ask for 30 ms looks at the clock while it waits 60 ms in vain, twice.
int looks_while_waiting(Duration look) {
  const SlowClock clock(look);
  std::array<int, 2> fds{};
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
  const auto peer = make_link(0, fds[1]);
  std::vector<std::unique_ptr<Link>> links(2);
  links[1] = make_link(1, fds[0]);
  LinkTransport transport(clock, 0, std::move(links), std::chrono::milliseconds(30), nullptr);
  for (int i = 0; i < 2; ++i) {
    const Time deadline = clock.now() + std::chrono::milliseconds(60);
    EXPECT_EQ(transport.receive(deadline).kind, Received::Kind::kDeadline);
  }
  return clock.looks();
}

// A yield that took a millisecond.
TEST(LinkTransportSpin, ARankWhoseProcessorIsWantedSleeps) {
  EXPECT_LT(looks_while_waiting(std::chrono::milliseconds(1)), 26);
}

}  // namespace
}  // namespace conclave::transport
