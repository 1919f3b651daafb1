// One rank against peers that the test plays.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <thread>

#include "collective/collective.h"
#include "collective/mailbox.h"
#include "collective/memory_fabric_test.h"

namespace conclave::collective {
namespace {

using wire::DataHeader;
using wire::DataKind;
using wire::Phase;

constexpr std::size_t kWidth = 4;
constexpr Tag kTag{.step = 3, .layer = 2, .phase = Phase::kAttention};

std::vector<VirtualRank> one_each(std::size_t n_ranks) {
  std::vector<VirtualRank> layout;
  for (std::size_t rank = 0; rank < n_ranks; ++rank) {
    layout.push_back({static_cast<std::uint16_t>(rank), static_cast<Rank>(rank)});
  }
  return layout;
}

DataHeader header_of(DataKind kind, const Tag& tag = kTag) {
  DataHeader header;
  header.kind = kind;
  header.phase = tag.phase;
  header.layer = tag.layer;
  header.step = tag.step;
  return header;
}

struct Fixture {
  explicit Fixture(std::size_t n_ranks, Rank self = 0,
                   Duration wait_limit = std::chrono::seconds(60))
      : fabric(n_ranks, 1),
        group(&fabric.at(self), clock, one_each(n_ranks),
              {.hidden_size = kWidth, .direct_bytes_max = 64, .wait_limit = wait_limit}) {}

  // Rows of `value` as the message of a peer.
  void send(Rank from, const DataHeader& header, float value, std::size_t n_floats = kWidth) {
    const std::vector<float> rows(n_floats, value);
    fabric.inject(from, group.rank(), header, std::as_bytes(std::span(rows)));
  }
  Result<void> exchange(const Tag& tag = kTag, std::size_t n_rows = 1) {
    partial.assign(n_rows * kWidth, 1.0f);
    hidden.assign(n_rows * kWidth, 100.0f);
    return group.exchange(
        tag, [this](std::size_t) { return std::span<const float>(partial); }, hidden, nullptr);
  }

  RealClock clock;
  MemoryFabric fabric;
  Group group;
  std::vector<float> partial;
  std::vector<float> hidden;
};

TEST(Group, MessagesOfAFastPeerWaitForTheirExchange) {
  Fixture f(3);
  constexpr Tag kNext{.step = 3, .layer = 2, .phase = Phase::kFeedForward};
  f.send(2, header_of(DataKind::kPartial), 20.0f);
  f.send(2, header_of(DataKind::kPartial, kNext), 2000.0f);
  f.send(1, header_of(DataKind::kPartial), 10.0f);
  ASSERT_TRUE(f.exchange());
  EXPECT_EQ(f.hidden, std::vector<float>(kWidth, 131.0f));
  f.send(1, header_of(DataKind::kPartial, kNext), 1000.0f);
  ASSERT_TRUE(f.exchange(kNext));
  EXPECT_EQ(f.hidden, std::vector<float>(kWidth, 3101.0f));
  EXPECT_EQ(f.group.stats().exchanges, 2u);
  EXPECT_EQ(f.group.stats().rounds, 2u);
  EXPECT_FALSE(f.group.broken());
}

// A peer's message that is not the expected one ends the epoch, and the error stays.
void expect_protocol_error(const DataHeader& header, std::size_t n_floats) {
  Fixture f(2);
  f.send(1, header, 1.0f, n_floats);
  const auto done = f.exchange();
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kCorrupt);
  ASSERT_TRUE(f.group.broken());
  EXPECT_EQ(f.group.broken()->kind, Broken::Kind::kProtocol);
  EXPECT_EQ(f.group.broken()->peer, 1);
  f.send(1, header_of(DataKind::kPartial), 1.0f);
  EXPECT_FALSE(f.exchange());
  EXPECT_FALSE(f.group.send_step(4, {}, f.hidden));
}

TEST(Group, OtherMessagesThanExpectedAreErrors) {
  DataHeader header = header_of(DataKind::kPartial);
  expect_protocol_error(header, kWidth - 1);
  expect_protocol_error(header, kWidth + 1);
  expect_protocol_error(header, 0);
  header.step = 4;
  expect_protocol_error(header, kWidth);
  header = header_of(DataKind::kPartial);
  header.layer = 3;
  expect_protocol_error(header, kWidth);
  header = header_of(DataKind::kPartial);
  header.phase = Phase::kFeedForward;
  expect_protocol_error(header, kWidth);
  for (const DataKind kind : {DataKind::kStep, DataKind::kScatter, DataKind::kGather,
                              DataKind::kRepair, DataKind::kHead, DataKind::kHidden}) {
    expect_protocol_error(header_of(kind), kWidth);
  }
}

TEST(Group, PeerFarAheadIsAnError) {
  Fixture f(3);
  for (std::size_t i = 0; i <= kEarlyMax; ++i) f.send(2, header_of(DataKind::kPartial), 1.0f);
  ASSERT_FALSE(f.exchange());
  EXPECT_EQ(f.group.broken()->kind, Broken::Kind::kProtocol);
  EXPECT_EQ(f.group.broken()->peer, 2);
}

TEST(Group, LostPeerIsNamed) {
  Fixture f(3);
  f.fabric.kill(2);
  const auto done = f.exchange();
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(done.error().message, "rank 2 is lost: connection closed");
  EXPECT_EQ(f.group.broken()->kind, Broken::Kind::kPeerLost);
  EXPECT_EQ(f.group.broken()->peer, 2);
}

TEST(Group, LatePeerIsNamed) {
  Fixture f(3, 0, std::chrono::milliseconds(5));
  f.send(1, header_of(DataKind::kPartial), 1.0f);
  ASSERT_FALSE(f.exchange());
  EXPECT_EQ(f.group.broken()->kind, Broken::Kind::kLate);
  EXPECT_EQ(f.group.broken()->peer, 2);
  EXPECT_GE(f.group.stats().waited, std::chrono::milliseconds(5));
}

TEST(Group, SaysWhomItWaitsForUntilInterrupted) {
  Fixture f(3);
  EXPECT_FALSE(f.group.waiting_for());
  f.send(1, header_of(DataKind::kPartial), 1.0f);
  std::thread rank([&] {
    EXPECT_FALSE(f.exchange());
    EXPECT_EQ(f.group.broken()->kind, Broken::Kind::kInterrupted);
    EXPECT_EQ(f.group.broken()->peer, 2);
  });
  while (f.group.waiting_for() != Rank{2}) std::this_thread::yield();
  f.fabric.interrupt(0);
  rank.join();
  EXPECT_FALSE(f.group.waiting_for());
}

// Of 5 rows rank 0 sums 2 and rank 1 sums 3.
TEST(Group, LargeExchangeChecksGatheredRows) {
  Fixture f(2);
  f.send(1, header_of(DataKind::kScatter), 10.0f, 2 * kWidth);
  f.send(1, header_of(DataKind::kGather), 5.0f, 3 * kWidth);
  ASSERT_TRUE(f.exchange(kTag, 5));
  std::vector<float> expected(2 * kWidth, 111.0f);
  expected.resize(5 * kWidth, 5.0f);
  EXPECT_EQ(f.hidden, expected);
  f.send(1, header_of(DataKind::kScatter), 10.0f, 2 * kWidth);
  f.send(1, header_of(DataKind::kGather), 5.0f, 2 * kWidth);
  ASSERT_FALSE(f.exchange(kTag, 5));
  EXPECT_EQ(f.group.broken()->kind, Broken::Kind::kProtocol);
}

TEST(Group, RoutingThatCannotBeIsAProtocolError) {
  Fixture f(2, 1);
  struct {
    std::array<float, kWidth> sum{};
    std::array<float, 2> weights{0.5f, 0.5f};
    std::array<std::uint16_t, 2> experts{3, 60000};
  } message;
  f.fabric.inject(0, 1, header_of(DataKind::kPartial), std::as_bytes(std::span(&message, 1)));
  const std::array experts{ExpertId{3}, ExpertId{4}};
  const std::array weights{0.5f, 0.5f};
  f.partial.assign(kWidth, 1.0f);
  f.hidden.assign(kWidth, 0.0f);
  RoutingCheck routing{.experts = experts, .weights = weights, .recompute = {}};
  routing.recompute = [](std::span<const ExpertId> chosen, std::span<const float>) -> Result<void> {
    EXPECT_EQ(chosen[1].value, 60000);
    return corrupt("expert 60000");
  };
  const auto done = f.group.exchange(
      kTag, [&](std::size_t) { return std::span<const float>(f.partial); }, f.hidden, &routing);
  ASSERT_FALSE(done);
  EXPECT_EQ(f.group.broken()->kind, Broken::Kind::kProtocol);
  EXPECT_EQ(f.group.broken()->peer, 0);
}

TEST(Group, StepReachesAllRanksWhole) {
  RealClock clock;
  MemoryFabric fabric(3, 1);
  const GroupOptions options{.hidden_size = kWidth};
  Group head(&fabric.at(0), clock, one_each(3), options);
  const std::vector<float> residual{1, 2, 3, 4, 5, 6, 7, 8};
  const std::array description{std::byte{7}, std::byte{8}, std::byte{9}};
  ASSERT_TRUE(head.send_step(42, description, residual));
  for (const Rank rank : {Rank{1}, Rank{2}}) {
    Group group(&fabric.at(rank), clock, one_each(3), options);
    const auto message = group.receive_step();
    ASSERT_TRUE(message);
    EXPECT_EQ(message->step, 42u);
    EXPECT_TRUE(std::ranges::equal(message->description, description));
    EXPECT_EQ(message->residual, residual);
  }
}

TEST(Group, DamagedStepsAreErrors) {
  const auto refused = [](DataKind kind, std::vector<std::uint32_t> words) {
    Fixture f(2, 1);
    DataHeader header;
    header.kind = kind;
    f.fabric.inject(0, 1, header, std::as_bytes(std::span(words)));
    const auto message = f.group.receive_step();
    return !message && f.group.broken()->kind == Broken::Kind::kProtocol;
  };
  EXPECT_FALSE(refused(DataKind::kStep, {4, 4, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(refused(DataKind::kPartial, {4, 4, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(refused(DataKind::kStep, {}));
  EXPECT_TRUE(refused(DataKind::kStep, {4}));
  EXPECT_TRUE(refused(DataKind::kStep, {4, 0, 0}));
  EXPECT_TRUE(refused(DataKind::kStep, {0, 5, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(refused(DataKind::kStep, {4, 4, 0, 0, 0, 0}));
  EXPECT_TRUE(refused(DataKind::kStep, {0xfffffff0, 0xfffffffc, 0, 0, 0, 0, 0}));
}

// No step for longer than the limit of other waits.
TEST(Group, WaitForAStepHasNoLimit) {
  Fixture f(2, 1, std::chrono::milliseconds(1));
  std::thread rank([&] {
    const auto message = f.group.receive_step();
    ASSERT_FALSE(message);
    EXPECT_EQ(f.group.broken()->kind, Broken::Kind::kInterrupted);
  });
  while (f.fabric.n_deadlines < 3) std::this_thread::yield();  // it waits, and waits again
  f.fabric.interrupt(1);
  rank.join();
}

TEST(Group, HeadCollectsSharesInOrderOfTheVirtualRanks) {
  RealClock clock;
  MemoryFabric fabric(3, 1);
  // Rank 2 computes nothing, rank 1 has virtual ranks 1 and 3.
  const std::vector<VirtualRank> layout{{0, 0}, {1, 1}, {2, 0}, {2, 1}};
  const GroupOptions options{.hidden_size = kWidth};
  Group head(&fabric.at(0), clock, layout, options);
  Group other(&fabric.at(1), clock, layout, options);
  Group idle(&fabric.at(2), clock, layout, options);
  const std::vector<std::vector<float>> of_head{{1, 2}, {}};
  const std::vector<std::vector<float>> of_other{{3}, {4, 5, 6}};
  const auto never = [](std::size_t, std::span<const float>) -> Result<void> {
    ADD_FAILURE();
    return {};
  };
  const auto logits_of = [](const std::vector<std::vector<float>>& shares) {
    return [&shares](std::size_t i) { return std::span<const float>(shares[i]); };
  };
  ASSERT_TRUE(idle.gather_head(9, logits_of(of_head), never));
  ASSERT_TRUE(other.gather_head(9, logits_of(of_other), never));
  std::vector<std::vector<float>> taken;
  ASSERT_TRUE(head.gather_head(9, logits_of(of_head),
                               [&](std::size_t v, std::span<const float> share) -> Result<void> {
                                 EXPECT_EQ(v, taken.size());
                                 taken.emplace_back(share.begin(), share.end());
                                 return {};
                               }));
  EXPECT_EQ(taken, (std::vector<std::vector<float>>{{1, 2}, {3}, {}, {4, 5, 6}}));

  ASSERT_TRUE(other.gather_head(10, logits_of(of_other), never));
  const auto done = head.gather_head(10, logits_of(of_head),
                                     [&](std::size_t v, std::span<const float>) -> Result<void> {
                                       if (v == 3) return corrupt("3 of 2 numbers");
                                       return {};
                                     });
  ASSERT_FALSE(done);
  EXPECT_EQ(head.broken()->kind, Broken::Kind::kProtocol);
  EXPECT_EQ(head.broken()->peer, 1);
}

TEST(Group, HeadOfAnotherSizeThanStatedIsAnError) {
  const auto refused = [](std::vector<std::uint32_t> words) {
    Fixture f(2);
    DataHeader header;
    header.kind = DataKind::kHead;
    f.fabric.inject(1, 0, header, std::as_bytes(std::span(words)));
    const std::vector<float> own(3);
    const auto done = f.group.gather_head(
        0, [&](std::size_t) { return std::span<const float>(own); },
        [](std::size_t, std::span<const float>) -> Result<void> { return {}; });
    return !done && f.group.broken()->kind == Broken::Kind::kProtocol;
  };
  EXPECT_FALSE(refused({2, 0, 0}));
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({2, 0}));
  EXPECT_TRUE(refused({1, 0, 0}));
  EXPECT_TRUE(refused({0xffffffff, 0, 0}));
}

TEST(Group, AloneNeedsNoTransport) {
  RealClock clock;
  Group group(nullptr, clock, {{0, 0}, {1, 0}}, {.hidden_size = 2});
  EXPECT_EQ(group.n_ranks(), 1u);
  std::vector<float> hidden{1, 2};
  ASSERT_TRUE(group.send_step(0, {}, hidden));
  const std::array<std::array<float, 2>, 2> partials{{{10, 20}, {100, 200}}};
  ASSERT_TRUE(group.exchange(
      kTag, [&](std::size_t i) { return std::span<const float>(partials[i]); }, hidden, nullptr));
  EXPECT_EQ(hidden, (std::vector<float>{111, 222}));
  std::size_t n_taken = 0;
  ASSERT_TRUE(group.gather_head(
      0, [&](std::size_t i) { return std::span<const float>(partials[i]); },
      [&](std::size_t v, std::span<const float> share) -> Result<void> {
        EXPECT_EQ(share.data(), partials[v].data());
        ++n_taken;
        return {};
      }));
  EXPECT_EQ(n_taken, 2u);
  EXPECT_FALSE(group.broken());
  EXPECT_FALSE(group.waiting_for());
  EXPECT_EQ(group.stats().rounds, 0u);
}

}  // namespace
}  // namespace conclave::collective
