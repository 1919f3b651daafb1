#include "transport/link.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <string>

#include "transport/test_group.h"

namespace conclave::transport {
namespace {

constexpr std::uint32_t kEpoch = 6;
constexpr Link::Limits kLimits{.queue_bytes_max = std::size_t{8} << 20,
                               .silence_max = std::chrono::milliseconds(300)};

// A link to rank 4, and the socket that is its other end.
struct OneLink {
  OneLink() {
    std::array<int, 2> fds{};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
    link =
        std::make_unique<Link>(Rank{4}, kEpoch, kLimits, SecureStream::clear(fds[0]), std::nullopt);
    other = Socket(fds[1]);
  }

  void say(std::span<const std::byte> bytes) const {
    ASSERT_EQ(::send(other.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  void say_message(std::uint32_t sequence, std::span<const std::byte> payload,
                   std::uint32_t epoch = kEpoch) const {
    say(wire::encode({.epoch = epoch,
                      .sequence = sequence,
                      .size = static_cast<std::uint32_t>(payload.size())}));
    say(payload);
  }

  std::unique_ptr<Link> link;
  Socket other;
};

TEST(Link, BytesThatComeOneByOneAreAMessage) {
  const OneLink ends;
  const Bytes payload = numbered(50, 1);
  const auto header = wire::encode({.epoch = kEpoch, .sequence = 0, .size = 50});
  for (const std::byte byte : header) {
    EXPECT_FALSE(ends.link->read());
    ends.say(std::span(&byte, 1));
  }
  for (const std::byte byte : payload) {
    EXPECT_FALSE(ends.link->read());
    ends.say(std::span(&byte, 1));
  }
  const auto message = ends.link->read();
  ASSERT_TRUE(message);
  EXPECT_EQ(message->from, 4);
  EXPECT_EQ(Bytes(message->payload.begin(), message->payload.end()), payload);
  EXPECT_FALSE(ends.link->read());
  EXPECT_FALSE(ends.link->lost());
}

TEST(Link, AnotherEpochIsDroppedAndDoesNotCount) {
  const OneLink ends;
  ends.say_message(0, numbered(10, 1), kEpoch - 1);
  ends.say_message(9, numbered(20, 1), kEpoch + 1);
  ends.say_message(0, numbered(30, 1));
  const auto message = ends.link->read();
  ASSERT_TRUE(message);
  EXPECT_EQ(message->payload.size(), 30u);
}

TEST(Link, AGapOrARepetitionLosesIt) {
  for (const std::uint32_t second : {0u, 2u}) {
    const OneLink ends;
    ends.say_message(0, numbered(10, 1));
    ends.say_message(second, numbered(10, 1));
    EXPECT_TRUE(ends.link->read());
    EXPECT_FALSE(ends.link->read());
    EXPECT_EQ(ends.link->reason(),
              "message " + std::to_string(second) + " came where 1 was expected");
  }
}

TEST(Link, ADamagedHeaderLosesIt) {
  const OneLink ends;
  auto header = wire::encode({.epoch = kEpoch, .size = 0});
  header[9] ^= std::byte{4};
  ends.say(header);
  EXPECT_FALSE(ends.link->read());
  EXPECT_NE(ends.link->reason().find("checksum"), std::string::npos);
  EXPECT_FALSE(ends.link->read());
}

TEST(Link, TheEndWithinAMessageLosesIt) {
  OneLink ends;
  ends.say(wire::encode({.epoch = kEpoch, .size = 100}));
  ends.say(numbered(99, 0));
  ends.other.reset();
  EXPECT_FALSE(ends.link->read());
  EXPECT_EQ(ends.link->reason(), "connection closed");
}

TEST(Link, MessagesAreNumberedAndQueuedInOrder) {
  const OneLink ends;
  const Bytes payload = numbered(100'000, 3);
  const std::span<const std::byte> part = payload;
  constexpr std::uint32_t kMessages = 40;
  for (std::uint32_t i = 0; i < kMessages; ++i) {
    ends.link->send({.step = i, .sequence = 77}, std::span(&part, 1));
  }
  EXPECT_TRUE(ends.link->has_queued());
  Bytes got(kMessages * (32 + payload.size()));
  for (std::size_t have = 0; have < got.size();) {
    const ssize_t n = ::recv(ends.other.get(), got.data() + have, got.size() - have, MSG_DONTWAIT);
    if (n > 0) have += static_cast<std::size_t>(n);
    ends.link->write_queued();
  }
  EXPECT_FALSE(ends.link->has_queued());
  for (std::uint32_t i = 0; i < kMessages; ++i) {
    const auto message = std::span(got).subspan(i * (32 + payload.size()));
    const auto header = wire::decode_data_header(message.first<wire::kDataHeaderSize>());
    ASSERT_TRUE(header);
    EXPECT_EQ(header->sequence, i);
    EXPECT_EQ(header->step, i);
    EXPECT_EQ(header->epoch, kEpoch);
    EXPECT_EQ(header->size, payload.size());
    EXPECT_TRUE(std::ranges::equal(message.subspan(32, payload.size()), payload));
  }
}

// Two ends of a TCP connection.
std::array<Socket, 2> tcp_pair() {
  const Socket listener = listen_on("127.0.0.1", 0).value();
  const auto address = resolve("127.0.0.1", local_port(listener.get())).value().front();
  std::array<Socket, 2> ends = {start_connect(address, Duration::zero()), Socket()};
  while (!ends[1].open()) ends[1] = Socket(accept(listener.get(), nullptr, nullptr));
  return ends;
}

TEST(Link, AMachineThatAnswersNothingIsLost) {
  auto ends = tcp_pair();
  Link link(4, kEpoch, kLimits, SecureStream::clear(ends[0].release()), std::nullopt);
  // As if the cable were pulled: what arrives at the other end is dropped unseen.
  sock_filter drop_all = BPF_STMT(BPF_RET | BPF_K, 0);
  const sock_fprog program{.len = 1, .filter = &drop_all};
  ASSERT_EQ(setsockopt(ends[1].get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), 0);
  const Bytes payload(1000);
  const std::span<const std::byte> part = payload;
  const Time sent = std::chrono::steady_clock::now();
  link.send({}, std::span(&part, 1));
  while (!link.lost() && std::chrono::steady_clock::now() < sent + std::chrono::seconds(20)) {
    link.check_silence();
  }
  EXPECT_NE(link.reason().find("has not answered"), std::string::npos) << link.reason();
  EXPECT_GE(std::chrono::steady_clock::now() - sent, kLimits.silence_max);
}

TEST(Link, ABusyPeerIsNotLost) {
  auto ends = tcp_pair();
  Link link(4, kEpoch, kLimits, SecureStream::clear(ends[0].release()), std::nullopt);
  const Bytes payload(std::size_t{7} << 20);
  const std::span<const std::byte> part = payload;
  link.send({}, std::span(&part, 1));
  ASSERT_TRUE(link.has_queued()) << "the sockets' buffers hold all of it";
  const Time until = std::chrono::steady_clock::now() + 4 * kLimits.silence_max;
  while (std::chrono::steady_clock::now() < until) {
    link.write_queued();
    link.check_silence();
    ASSERT_FALSE(link.lost()) << link.reason();
  }
}

TEST(Link, TheQueueHasALimit) {
  const OneLink ends;
  const Bytes payload(std::size_t{1} << 20);
  const std::span<const std::byte> part = payload;
  for (std::size_t i = 0; i < 8; ++i) ends.link->send({}, std::span(&part, 1));
  EXPECT_FALSE(ends.link->lost());
  for (std::size_t i = 0; i < 2; ++i) ends.link->send({}, std::span(&part, 1));
  EXPECT_TRUE(ends.link->lost());
  EXPECT_FALSE(ends.link->has_queued()) << "what nobody will take is not kept";
}

}  // namespace
}  // namespace conclave::transport
