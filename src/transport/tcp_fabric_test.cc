#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "transport/test_group.h"
#include "transport/test_ranks.h"
#include "transport/transport.h"

namespace conclave::transport {
namespace {

using std::chrono::milliseconds;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// The link between ranks: in clear, TLS, or shared memory.
enum class Kind : std::uint8_t { kClear, kTls, kShared };

class TcpFabricOf : public testing::TestWithParam<Kind> {
 protected:
  explicit TcpFabricOf() = default;

  std::vector<std::unique_ptr<Transport>> join(std::size_t n, std::vector<Watch*> watches = {},
                                               const TcpOptions& options = {}) {
    ranks_ = std::make_unique<Ranks>(n, GetParam() == Kind::kClear, options);
    TestGroup group = ranks_->group(1);
    for (Endpoint& endpoint : group.spec.ranks) {
      endpoint.host_id = GetParam() == Kind::kShared ? "here" : "";
    }
    return group.transports(std::move(watches));
  }

  std::unique_ptr<Ranks> ranks_;
};

std::string kind_name(const testing::TestParamInfo<Kind>& info) {
  constexpr std::array kNames = {"Clear", "Tls", "Shared"};
  return kNames[static_cast<std::size_t>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Links, TcpFabricOf,
                         testing::Values(Kind::kClear, Kind::kTls, Kind::kShared), kind_name);

TEST_P(TcpFabricOf, ThreeRanksExchange) {
  auto transports = join(3);
  for (const std::size_t size : {0u, 1u, 28'672u, 300'000u}) {
    exchange_all_with_all(transports, size, 20);
  }
  for (const auto& transport : transports) {
    const LinkStats& stats = transport->stats()[transport->rank() == 0 ? 1 : 0];
    EXPECT_EQ(stats.messages_sent, 80u);
    EXPECT_EQ(stats.messages_received, 80u);
    EXPECT_EQ(stats.bytes_received, 80u * 32 + 20u * (1 + 28'672 + 300'000));
    EXPECT_EQ(stats.bytes_sent, stats.bytes_received);
  }
}

TEST_P(TcpFabricOf, LargeMessagesBothWaysAtOnce) {
  auto transports = join(2);
  exchange_all_with_all(transports, std::size_t{20} << 20, 2);
}

TEST_P(TcpFabricOf, SleepingExchangesToo) {
  TcpOptions options;
  options.spin = Duration::zero();
  auto transports = join(2, {}, options);
  exchange_all_with_all(transports, 28'672, 200);
}

TEST_P(TcpFabricOf, PartsArriveAsOnePayload) {
  auto transports = join(2);
  const Bytes whole = numbered(100'000, 5);
  std::vector<std::span<const std::byte>> parts;
  for (std::size_t i = 0; i < kPartsMax; ++i) {
    parts.push_back(std::span(whole).subspan(i * 700, i + 1 < kPartsMax ? 700 : 11'100));
  }
  transports[0]->send(1, {}, parts);
  EXPECT_EQ(receive(*transports[1], 0), whole);
}

TEST_P(TcpFabricOf, ALostPeerIsToldAtOnceAndForEver) {
  auto transports = join(3);
  send(*transports[2], 1, bytes_of("last words"));
  EXPECT_EQ(receive(*transports[1], 2).size(), 10u);
  std::thread ends([&transports] { transports[2].reset(); });
  const Received lost = transports[1]->receive(soon());
  ends.join();
  EXPECT_EQ(lost.kind, Received::Kind::kPeerLost);
  EXPECT_EQ(lost.lost, 2);
  EXPECT_NE(lost.reason.find("connection"), std::string::npos) << lost.reason;
  send(*transports[0], 1, bytes_of("still here"));
  send(*transports[1], 2, bytes_of("nobody hears this"));
  for (int i = 0; i < 2; ++i) {
    const Received again = transports[1]->receive(soon());
    EXPECT_EQ(again.kind, Received::Kind::kPeerLost);
    EXPECT_EQ(again.lost, 2);
  }
  transports[1]->flush(soon());
}

TEST_P(TcpFabricOf, WordsBeforeTheEndArrive) {
  auto transports = join(2);
  send(*transports[1], 0, bytes_of("a"));
  send(*transports[1], 0, numbered(100'000, 1));
  transports[1]->flush(soon());
  transports[1].reset();
  EXPECT_EQ(receive(*transports[0], 1).size(), 1u);
  EXPECT_EQ(receive(*transports[0], 1), numbered(100'000, 1));
  EXPECT_EQ(transports[0]->receive(soon()).kind, Received::Kind::kPeerLost);
}

TEST_P(TcpFabricOf, TheWatchInterruptsAWait) {
  TestWatch watch;
  auto transports = join(2, {&watch, nullptr});
  watch.say_something_else();
  EXPECT_EQ(transports[0]->receive(in(milliseconds(20))).kind, Received::Kind::kDeadline);
  std::thread agent([&watch] { watch.interrupt(); });
  EXPECT_EQ(transports[0]->receive(Time::max()).kind, Received::Kind::kInterrupted);
  agent.join();
  send(*transports[1], 0, bytes_of("too late"));
  EXPECT_EQ(transports[0]->receive(soon()).kind, Received::Kind::kInterrupted);
}

TEST_P(TcpFabricOf, TheDeadlineEndsAWait) {
  auto transports = join(2);
  const Time deadline = in(milliseconds(30));
  EXPECT_EQ(transports[0]->receive(deadline).kind, Received::Kind::kDeadline);
  EXPECT_GE(std::chrono::steady_clock::now(), deadline);
  EXPECT_EQ(transports[0]->receive(Time{}).kind, Received::Kind::kDeadline);
  send(*transports[1], 0, bytes_of("x"));
  EXPECT_EQ(receive(*transports[0], 1).size(), 1u);
}

TEST_P(TcpFabricOf, APeerThatTakesNothingIsLostAtTheQueuesLimit) {
  TcpOptions options;
  options.queue_bytes_max = std::size_t{4} << 20;
  auto transports = join(2, {}, options);
  const Bytes bytes(std::size_t{1} << 20);
  for (int i = 0; i < 64; ++i) send(*transports[0], 1, bytes);
  const Received lost = transports[0]->receive(soon());
  EXPECT_EQ(lost.kind, Received::Kind::kPeerLost);
  EXPECT_NE(lost.reason.find("MiB queued"), std::string::npos) << lost.reason;
}

TEST_P(TcpFabricOf, APeerThatComputesForLongIsNotLost) {
  TcpOptions options;
  options.user_timeout = milliseconds(50);
  auto transports = join(2, {}, options);
  const Bytes large = numbered(std::size_t{20} << 20, 1);
  send(*transports[0], 1, large);
  EXPECT_EQ(transports[0]->receive(in(milliseconds(600))).kind, Received::Kind::kDeadline);
  std::thread sender([&transports] { transports[0]->flush(soon()); });
  EXPECT_EQ(receive(*transports[1], 0), large);
  sender.join();
}

TEST_P(TcpFabricOf, FlushEndsAtItsDeadlineAndAtTheWatch) {
  TestWatch watch;
  auto transports = join(2, {&watch, nullptr});
  send(*transports[0], 1, numbered(std::size_t{40} << 20, 1));
  transports[0]->flush(in(milliseconds(20)));
  std::thread agent([&watch] { watch.interrupt(); });
  transports[0]->flush(Time::max());
  agent.join();
  EXPECT_EQ(transports[0]->receive(soon()).kind, Received::Kind::kInterrupted);
}

TEST(TcpFabric, SharedMemoryIsUsedOnlyWhereBothHaveIt) {
  RealClock clock;
  std::vector<std::unique_ptr<TcpFabric>> fabrics;
  TestGroup group;
  group.spec = {.cluster = 1, .epoch = 1, .rank = 0, .ranks = {}};
  for (const bool shared : {true, false}) {
    TcpOptions options;
    options.host = kLocalhost;
    options.shared_memory = shared;
    const Identity identity = Identity::generate("rank").value();
    fabrics.push_back(TcpFabric::listen(clock, identity, options).value());
    group.fabrics.push_back(fabrics.back().get());
    group.spec.ranks.push_back({.host = std::string(kLocalhost),
                                .port = fabrics.back()->port(),
                                .fingerprint = identity.fingerprint(),
                                .clear = false,
                                .host_id = "here"});
  }
  auto transports = group.transports();
  exchange_all_with_all(transports, 28'672, 3);
}

TEST(TcpFabric, AGroupMustHaveTheRank) {
  Ranks ranks(2, true);
  GroupSpec spec = ranks.group(1).spec;
  spec.rank = 2;
  EXPECT_FALSE(ranks.fabric(0).join(spec, soon(), nullptr));
  spec.ranks.resize(kRanksMax + 1);
  EXPECT_FALSE(ranks.fabric(0).join(spec, soon(), nullptr));
}

TEST(TcpFabric, AGroupOfOneIsThereAtOnce) {
  Ranks ranks(1, true);
  auto transports = ranks.group(1).transports();
  EXPECT_EQ(transports[0]->receive(Time{}).kind, Received::Kind::kDeadline);
}

}  // namespace
}  // namespace conclave::transport
