// Through TcpFabric::join(), which is all that uses it.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <future>

#include "transport/hello.h"
#include "transport/socket.h"
#include "transport/test_group.h"
#include "transport/test_ranks.h"
#include "transport/transport.h"

namespace conclave::transport {
namespace {

using std::chrono::milliseconds;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// A connection of somebody else to a rank's port.
Socket connect_to(std::uint16_t port) {
  const auto addresses = resolve(std::string(kLocalhost), port).value();
  Socket socket = start_connect(addresses.front(), std::chrono::seconds(2));
  CHECK(socket.open());
  return socket;
}

void say(const Socket& socket, std::span<const std::byte> bytes) {
  pollfd fd{socket.get(), POLLOUT, 0};
  ASSERT_EQ(poll(&fd, 1, 10'000), 1);
  ASSERT_EQ(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
}

TEST(Rendezvous, ARankThatIsLateIsCalledAgain) {
  Ranks ranks(2, false);
  TestGroup group = ranks.group(1);
  // Nobody listens there until rank 0 does.
  TcpOptions options;
  options.host = kLocalhost;
  RealClock clock;
  std::uint16_t port = 0;
  {
    const auto reserved = TcpFabric::listen(clock, ranks.identity(0), options).value();
    port = reserved->port();
  }
  group.spec.ranks[0].port = port;
  std::future<Result<std::unique_ptr<Transport>>> caller = std::async(std::launch::async, [&] {
    GroupSpec spec = group.spec;
    spec.rank = 1;
    return ranks.fabric(1).join(spec, soon(), nullptr);
  });
  EXPECT_EQ(caller.wait_for(milliseconds(100)), std::future_status::timeout);
  options.port = port;
  const auto late = TcpFabric::listen(clock, ranks.identity(0), options).value();
  EXPECT_TRUE(late->join(group.spec, soon(), nullptr));
  EXPECT_TRUE(caller.get());
}

TEST(Rendezvous, ARankThatNeverComesIsNamed) {
  Ranks ranks(3, false);
  TestGroup group = ranks.group(1);
  group.spec.rank = 1;
  const auto joined = ranks.fabric(1).join(group.spec, in(milliseconds(100)), nullptr);
  ASSERT_FALSE(joined);
  EXPECT_EQ(joined.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(joined.error().message.find("rank 0 (127.0.0.1:"), std::string::npos);
  EXPECT_NE(joined.error().message.find("rank 2 (127.0.0.1:"), std::string::npos);
}

TEST(Rendezvous, TheWatchInterruptsAJoin) {
  Ranks ranks(2, false);
  TestGroup group = ranks.group(1);
  TestWatch watch;
  std::thread agent([&watch] { watch.interrupt(); });
  const auto joined = ranks.fabric(0).join(group.spec, Time::max(), &watch);
  agent.join();
  ASSERT_FALSE(joined);
  EXPECT_NE(joined.error().message.find("interrupted"), std::string::npos);
}

TEST(Rendezvous, EpochAfterEpochOnTheSamePorts) {
  Ranks ranks(3, false);
  for (std::uint32_t epoch = 1; epoch <= 4; ++epoch) {
    auto transports = ranks.group(epoch).transports();
    exchange_all_with_all(transports, 1000, 3);
  }
}

TEST(Rendezvous, ACallOfAnOldEpochIsTurnedAway) {
  Ranks ranks(2, false);
  TestGroup old = ranks.group(4);
  old.spec.rank = 1;
  // It gives up while its call waits in the listener's backlog, and while nobody joins.
  EXPECT_FALSE(ranks.fabric(1).join(old.spec, in(milliseconds(100)), nullptr));
  // Another one is there still, and says so all the time.
  TestWatch stop;
  std::thread stale(
      [&ranks, &old, &stop] { EXPECT_FALSE(ranks.fabric(1).join(old.spec, soon(), &stop)); });
  TestGroup now = ranks.group(5);
  EXPECT_FALSE(ranks.fabric(0).join(now.spec, in(milliseconds(300)), nullptr));
  stop.interrupt();
  stale.join();
  EXPECT_NE(ranks.reasons(0).find("it is of epoch 4, not 5"), std::string::npos)
      << ranks.reasons(0);
  auto transports = now.transports();
  exchange_all_with_all(transports, 1000, 3);
}

TEST(Rendezvous, AnotherKeyIsTurnedAway) {
  Ranks ranks(2, false);
  TestGroup group = ranks.group(1);
  group.deadline = in(milliseconds(300));
  group.spec.ranks[1].fingerprint = Identity::generate("expected").value().fingerprint();
  for (const auto& joined : group.join()) EXPECT_FALSE(joined);
  EXPECT_NE(ranks.reasons(0).find(to_hex(ranks.identity(1).fingerprint())), std::string::npos)
      << ranks.reasons(0);

  group = ranks.group(1);
  group.deadline = in(milliseconds(300));
  group.spec.ranks[0].fingerprint = Identity::generate("expected").value().fingerprint();
  const auto joined = group.join();
  ASSERT_FALSE(joined[1]);
  EXPECT_NE(joined[1].error().message.find("is not an expected one"), std::string::npos)
      << joined[1].error().message;
}

TEST(Rendezvous, ARankDoesNotTakeAnothersPlace) {
  Ranks ranks(3, false);
  const GroupSpec own = ranks.group(1).spec;
  GroupSpec anothers = own;
  anothers.rank = 1;
  std::future<Result<std::unique_ptr<Transport>>> thief = std::async(std::launch::async, [&] {
    return ranks.fabric(2).join(anothers, in(milliseconds(300)), nullptr);
  });
  EXPECT_FALSE(ranks.fabric(0).join(own, in(milliseconds(300)), nullptr));
  EXPECT_FALSE(thief.get());
  EXPECT_NE(ranks.reasons(0).find("it has not the key of rank 1"), std::string::npos)
      << ranks.reasons(0);
}

TEST(Rendezvous, ClearIsTurnedAwayWhereItIsNotMarked) {
  Ranks ranks(2, false);
  TestGroup group = ranks.group(1);
  GroupSpec calls = group.spec;
  calls.rank = 1;
  for (Endpoint& endpoint : calls.ranks) endpoint.clear = true;
  std::future<Result<std::unique_ptr<Transport>>> caller = std::async(std::launch::async, [&] {
    return ranks.fabric(1).join(calls, in(milliseconds(300)), nullptr);
  });
  EXPECT_FALSE(ranks.fabric(0).join(group.spec, in(milliseconds(300)), nullptr));
  EXPECT_FALSE(caller.get());
  EXPECT_NE(ranks.reasons(0).find("it is in clear"), std::string::npos) << ranks.reasons(0);
}

TEST(Rendezvous, GarbageDisturbsNobody) {
  Ranks ranks(2, true);
  TestGroup group = ranks.group(1);
  std::vector<Socket> strangers;
  const std::string http = "GET / HTTP/1.1\r\nHost: a\r\n\r\n" + std::string(100, 'x');
  const std::string tls = "\x16\x03\x01" + std::string(200, 'x');
  const Hello hello{
      .cluster = 77, .epoch = 1, .n_ranks = 2, .rank = 0, .to = 0};  // a rank calls itself
  const auto own = encode(hello);
  for (const std::span<const std::byte> said :
       {bytes_of(http), bytes_of(tls), std::span<const std::byte>(own), bytes_of("")}) {
    strangers.push_back(connect_to(ranks.fabric(0).port()));
    if (!said.empty()) say(strangers.back(), said);
  }
  connect_to(ranks.fabric(0).port()).reset();
  auto transports = group.transports();
  exchange_all_with_all(transports, 1000, 3);
  const std::string reasons = ranks.reasons(0);
  EXPECT_NE(reasons.find("not a greeting"), std::string::npos) << reasons;
  EXPECT_NE(reasons.find("TLS"), std::string::npos) << reasons;
  EXPECT_NE(reasons.find("rank 0 does not call"), std::string::npos) << reasons;
}

TEST(Rendezvous, ManyWhoSayNothingDoNotShutRanksOut) {
  Ranks ranks(2, true);
  std::vector<Socket> silent;
  silent.reserve(200);
  for (int i = 0; i < 200; ++i) silent.push_back(connect_to(ranks.fabric(0).port()));
  auto transports = ranks.group(1).transports();
  exchange_all_with_all(transports, 1000, 3);
  EXPECT_NE(ranks.reasons(0).find("too many connections"), std::string::npos);
}

}  // namespace
}  // namespace conclave::transport
