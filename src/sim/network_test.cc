#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "sim/sim.h"

namespace conclave::sim {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr std::size_t kEvents = 1'000'000;

// A network whose messages leave their time and number behind.
struct Bench {
  Bench(std::uint64_t seed, const NetworkOptions& options) : world(seed), network(world, options) {}

  void send(std::size_t from, std::size_t to, std::uint64_t bytes, int number) {
    network.send(from, to, bytes, [this, number] {
      times.push_back(world.now() - Time{});
      numbers.push_back(number);
    });
  }
  void run() { EXPECT_EQ(world.run_until_idle(kEvents), Stop::kIdle); }

  World world;
  Network network;
  std::vector<Duration> times;
  std::vector<int> numbers;
};

NetworkOptions options_of(std::size_t n_nodes, const LinkModel& link,
                          Cabling cabling = Cabling::kPerNode) {
  return {.n_nodes = n_nodes, .link = link, .cabling = cabling};
}

const LinkModel kGigabyte{.latency = microseconds(10), .bandwidth = 1e9};

const LinkModel kWild{.latency = microseconds(10),
                      .jitter_mean = microseconds(20),
                      .bandwidth = 1e9,
                      .loss = 0.1,
                      .duplication = 0.1,
                      .reordering = 0.2};

std::uint64_t trace_of(std::uint64_t seed) {
  Bench bench(seed, options_of(3, kWild));
  for (int i = 0; i < 200; ++i) {
    bench.send(static_cast<std::size_t>(i) % 3, static_cast<std::size_t>(i + 1) % 3, 1000, i);
  }
  bench.run();
  return bench.world.trace();
}

TEST(Network, OneSeedOneHistory) {
  EXPECT_EQ(trace_of(1), trace_of(1));
  EXPECT_NE(trace_of(1), trace_of(2));
}

TEST(Network, TheFateOfAMessageDoesNotDependOnOtherDirections) {
  const auto fate = [](bool more_traffic) {
    Bench bench(5, options_of(3, kWild, Cabling::kPerPair));
    for (int i = 0; i < 50; ++i) {
      if (more_traffic) bench.network.send(1, 2, 100, [] {});
      bench.send(0, 1, 100, i);
    }
    bench.run();
    return bench.numbers;
  };
  EXPECT_EQ(fate(false), fate(true));
}

TEST(Network, SerialisationIsExactOnASharedCable) {
  Bench bench(1, options_of(3, kGigabyte));
  bench.send(0, 1, 4000, 1);
  bench.send(0, 2, 2000, 2);
  bench.send(1, 0, 1000, 3);  // another cable
  bench.run();
  EXPECT_EQ(bench.numbers, (std::vector<int>{3, 1, 2}));
  EXPECT_EQ(bench.times,
            (std::vector<Duration>{microseconds(11), microseconds(14), microseconds(16)}));
}

TEST(Network, AMeshSendsToAllPeersAtOnce) {
  Bench bench(1, options_of(3, kGigabyte, Cabling::kPerPair));
  bench.send(0, 1, 4000, 1);
  bench.send(0, 2, 4000, 2);
  bench.send(0, 2, 4000, 3);
  bench.run();
  EXPECT_EQ(bench.times,
            (std::vector<Duration>{microseconds(14), microseconds(14), microseconds(18)}));
}

TEST(Network, OneDirectionIsFirstInFirstOutWhateverTheJitter) {
  LinkModel link = kGigabyte;
  link.jitter_mean = milliseconds(1);
  Bench bench(1, options_of(2, link));
  std::vector<int> sent;
  for (int i = 0; i < 500; ++i) {
    bench.send(0, 1, 10, i);
    sent.push_back(i);
  }
  bench.run();
  EXPECT_EQ(bench.numbers, sent);
}

TEST(Network, ReorderingLetsMessagesPass) {
  LinkModel link = kGigabyte;
  link.reordering = 0.1;
  Bench bench(1, options_of(2, link));
  std::vector<int> sent;
  for (int i = 0; i < 500; ++i) {
    bench.send(0, 1, 10, i);
    sent.push_back(i);
  }
  bench.run();
  EXPECT_NE(bench.numbers, sent);
  EXPECT_TRUE(std::is_permutation(sent.begin(), sent.end(), bench.numbers.begin()));
}

TEST(Network, JitterHasItsMean) {
  constexpr int kMessages = 20'000;
  LinkModel link{.latency = microseconds(10), .jitter_mean = microseconds(50)};
  // Reordered by nothing: no message waits for the one before it, so each delay is its own.
  link.reordering = 1.0;
  link.reorder_mean = Duration::zero();
  Bench bench(1, options_of(2, link));
  for (int i = 0; i < kMessages; ++i) bench.send(0, 1, 10, i);
  bench.run();
  double sum = 0.0;
  for (const Duration t : bench.times) sum += seconds(t);
  EXPECT_NEAR(sum / kMessages, 60e-6, 5.0 * 50e-6 / std::sqrt(double{kMessages}));
}

TEST(Network, LossAndDuplicationHaveTheirRates) {
  constexpr double kMessages = 20'000;
  LinkModel link = kGigabyte;
  link.loss = 0.03;
  link.duplication = 0.2;
  Bench bench(1, options_of(2, link));
  for (int i = 0; i < static_cast<int>(kMessages); ++i) bench.send(0, 1, 10, i);
  bench.run();
  const NetworkStats& stats = bench.network.stats();
  const auto sigma = [](double n, double p) { return std::sqrt(n * p * (1.0 - p)); };
  EXPECT_NEAR(static_cast<double>(stats.lost), kMessages * 0.03, 5.0 * sigma(kMessages, 0.03));
  const double arrived = kMessages - static_cast<double>(stats.lost);
  EXPECT_NEAR(static_cast<double>(stats.duplicated), arrived * 0.2, 5.0 * sigma(arrived, 0.2));
  EXPECT_EQ(stats.delivered, bench.numbers.size());
  EXPECT_EQ(stats.delivered, stats.sent - stats.lost + stats.duplicated);
}

TEST(Network, APartitionMayBeOneWay) {
  Bench bench(1, options_of(2, kGigabyte));
  bench.network.cut(0, 1);
  bench.send(0, 1, 10, 1);
  bench.send(1, 0, 10, 2);
  bench.run();
  EXPECT_EQ(bench.numbers, std::vector<int>{2});
  bench.network.heal(0, 1);
  bench.send(0, 1, 10, 3);
  bench.run();
  EXPECT_EQ(bench.numbers, (std::vector<int>{2, 3}));
  EXPECT_EQ(bench.network.stats().cut, 1u);
}

TEST(Network, APartitionTakesWhatIsUnderWay) {
  Bench bench(1, options_of(2, kGigabyte));
  bench.send(0, 1, 10, 1);
  bench.world.schedule_after(microseconds(5), [&bench] { bench.network.cut(0, 1); });
  bench.run();
  EXPECT_TRUE(bench.numbers.empty());
}

TEST(Network, ACrashDropsMessagesTimersAndWork) {
  Bench bench(1, options_of(2, kGigabyte));
  Network& network = bench.network;
  std::string ran;
  bench.send(0, 1, 10, 1);
  network.after(1, microseconds(8), [&ran] { ran += 't'; });
  network.compute(1, microseconds(8), [&ran] { ran += 'w'; });
  network.after(0, microseconds(8), [&ran] { ran += '0'; });
  bench.world.schedule_after(microseconds(5), [&network] { network.crash(1); });
  // Back before any of it is due: still for the dead life of the node.
  bench.world.schedule_after(microseconds(6), [&network] { network.restart(1); });
  bench.run();
  EXPECT_TRUE(bench.numbers.empty());
  EXPECT_EQ(ran, "0");
  EXPECT_EQ(network.stats().to_dead, 1u);
  EXPECT_EQ(network.incarnation(1), 1u);
  bench.send(0, 1, 10, 2);
  bench.run();
  EXPECT_EQ(bench.numbers, std::vector<int>{2});
}

TEST(Network, AMessageToADeadNodeIsNotKeptForTheNextLife) {
  Bench bench(1, options_of(2, kGigabyte));
  bench.network.crash(1);
  bench.send(0, 1, 10, 1);
  bench.network.restart(1);
  bench.run();
  EXPECT_TRUE(bench.numbers.empty());
}

TEST(Network, AFrozenNodeGetsEverythingLaterInOrder) {
  Bench bench(1, options_of(2, kGigabyte));
  Network& network = bench.network;
  network.freeze(1);
  bench.send(0, 1, 1000, 1);  // due at 11 us
  network.after(1, microseconds(20), [&bench] { bench.numbers.push_back(2); });
  bench.world.schedule_after(microseconds(50), [&network] { network.unfreeze(1); });
  // Due in the moment of the thaw, scheduled before it: still after what was held.
  network.after(1, microseconds(50), [&bench] { bench.numbers.push_back(3); });
  bench.run();
  EXPECT_EQ(bench.numbers, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(bench.times, std::vector<Duration>{microseconds(50)});
}

TEST(Network, AFrozenNodeMayCrash) {
  Bench bench(1, options_of(2, kGigabyte));
  bench.network.freeze(1);
  bench.send(0, 1, 10, 1);
  bench.network.after(1, microseconds(1), [&bench] { bench.numbers.push_back(2); });
  bench.world.schedule_after(microseconds(50), [&bench] {
    bench.network.crash(1);
    bench.network.restart(1);
  });
  bench.run();
  EXPECT_TRUE(bench.numbers.empty());
  EXPECT_FALSE(bench.network.frozen(1));
}

TEST(Network, AFullFrozenNodeLosesMessages) {
  Bench bench(1, options_of(2, {}));
  bench.network.freeze(1);
  for (std::size_t i = 0; i < kMessagesHeldMax + 3; ++i) bench.network.send(0, 1, 1, [] {});
  bench.run();
  bench.network.unfreeze(1);
  bench.run();
  EXPECT_EQ(bench.network.stats().delivered, kMessagesHeldMax);
  EXPECT_EQ(bench.network.stats().overflowed, 3u);
}

TEST(Network, AFreezeStretchesWork) {
  Bench bench(1, options_of(1, {}));
  Network& network = bench.network;
  Time done_early{};
  Time done_late{};
  network.compute(0, microseconds(40), [&] { done_early = bench.world.now(); });
  network.compute(0, microseconds(200), [&] { done_late = bench.world.now(); });
  bench.world.schedule_after(microseconds(10), [&network] { network.freeze(0); });
  bench.world.schedule_after(microseconds(110), [&network] { network.unfreeze(0); });
  bench.run();
  EXPECT_EQ(done_early, Time{} + microseconds(140));
  EXPECT_EQ(done_late, Time{} + microseconds(300));
}

TEST(Network, ASlowNodeComputesSlowlyButKeepsTime) {
  Bench bench(1, options_of(2, {}));
  Network& network = bench.network;
  network.set_slow_factor(1, 2.5);
  std::vector<Time> done(3);
  network.compute(0, microseconds(10), [&] { done[0] = bench.world.now(); });
  network.compute(1, microseconds(10), [&] { done[1] = bench.world.now(); });
  network.after(1, microseconds(10), [&] { done[2] = bench.world.now(); });
  bench.run();
  EXPECT_EQ(done[0], Time{} + microseconds(10));
  EXPECT_EQ(done[1], Time{} + microseconds(25));
  EXPECT_EQ(done[2], Time{} + microseconds(10));
}

TEST(Network, TimersAreCancelledAlsoWhileHeld) {
  Bench bench(1, options_of(1, {}));
  Network& network = bench.network;
  std::string ran;
  const Network::TimerId early = network.after(0, microseconds(1), [&ran] { ran += 'a'; });
  const Network::TimerId held = network.after(0, microseconds(20), [&ran] { ran += 'b'; });
  network.after(0, microseconds(21), [&ran] { ran += 'c'; });
  EXPECT_TRUE(network.cancel(early));
  EXPECT_FALSE(network.cancel(early));
  bench.world.schedule_after(microseconds(10), [&network] { network.freeze(0); });
  bench.world.schedule_after(microseconds(30), [&] {
    EXPECT_TRUE(network.cancel(held));
    network.unfreeze(0);
  });
  bench.run();
  EXPECT_EQ(ran, "c");
}

TEST(Network, LinksDifferByDirection) {
  Bench bench(1, options_of(2, kGigabyte));
  bench.network.set_link(0, 1, {.latency = nanoseconds(700)});
  bench.send(0, 1, 1 << 20, 1);
  bench.send(1, 0, 1000, 2);
  bench.run();
  EXPECT_EQ(bench.times, (std::vector<Duration>{nanoseconds(700), microseconds(11)}));
}

}  // namespace
}  // namespace conclave::sim
