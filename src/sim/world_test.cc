#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sim/sim.h"

namespace conclave::sim {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(World, RunsByTimeAndTiesInOrderOfScheduling) {
  World world(1);
  std::string order;
  world.schedule_after(seconds(2), [&order] { order += 'd'; });
  world.schedule_after(seconds(1), [&order] { order += 'a'; });
  world.schedule_after(seconds(1), [&order] { order += 'b'; });
  world.schedule_after(seconds(1), [&order] { order += 'c'; });
  EXPECT_EQ(world.run_until_idle(100), Stop::kIdle);
  EXPECT_EQ(order, "abcd");
  EXPECT_EQ(world.now(), Time{} + seconds(2));
}

TEST(World, IsAClockForCodeThatTakesOne) {
  World world(1);
  const Clock& clock = world;
  Time seen{};
  world.schedule_after(milliseconds(3), [&] { seen = clock.now(); });
  world.run_until_idle(1);
  EXPECT_EQ(seen, Time{} + milliseconds(3));
}

TEST(World, RunUntilStopsAtTheTimeAndKeepsTheRest) {
  World world(1);
  int n_run = 0;
  for (int i = 1; i <= 5; ++i) world.schedule_after(seconds(i), [&n_run] { ++n_run; });
  EXPECT_EQ(world.run_until(Time{} + milliseconds(2500), 100), Stop::kTime);
  EXPECT_EQ(n_run, 2);
  EXPECT_EQ(world.now(), Time{} + milliseconds(2500));
  EXPECT_EQ(world.run_until(Time{} + seconds(3), 100), Stop::kTime);
  EXPECT_EQ(n_run, 3);
  EXPECT_EQ(world.run_until(Time{} + seconds(9), 100), Stop::kIdle);
  EXPECT_EQ(world.now(), Time{} + seconds(9));
}

TEST(World, AnEndlessLoopStopsAtTheLimit) {
  World world(1);
  Callback again = [&] { world.schedule_after(microseconds(1), again); };
  again();
  EXPECT_EQ(world.run_until_idle(1000), Stop::kEvents);
  EXPECT_EQ(world.events_run(), 1000u);
  EXPECT_EQ(world.run_until(world.now() + seconds(1), 10), Stop::kEvents);
  EXPECT_EQ(world.pending(), 1u);
}

TEST(World, CancelledEventsDoNotRun) {
  World world(1);
  int n_run = 0;
  const EventId first = world.schedule_after(seconds(1), [&n_run] { ++n_run; });
  const EventId second = world.schedule_after(seconds(1), [&n_run] { n_run += 10; });
  EXPECT_TRUE(world.cancel(first));
  EXPECT_FALSE(world.cancel(first));
  // Takes over the slot of the cancelled one, which must not come back with it.
  world.schedule_after(seconds(2), [&n_run] { n_run += 100; });
  EXPECT_FALSE(world.cancel(first));
  EXPECT_EQ(world.pending(), 2u);
  world.run_until_idle(100);
  EXPECT_EQ(n_run, 110);
  EXPECT_FALSE(world.cancel(second));
  EXPECT_EQ(world.pending(), 0u);
}

TEST(World, CancelledDeadlinesDoNotPileUp) {
  World world(1);
  int n_run = 0;
  world.schedule_after(seconds(5), [&n_run] { ++n_run; });
  for (std::size_t i = 0; i <= kEventsPendingMax; ++i) {
    world.cancel(world.schedule_after(seconds(10), [&n_run] { n_run += 10; }));
  }
  EXPECT_EQ(world.pending(), 1u);
  world.run_until_idle(100);
  EXPECT_EQ(n_run, 1);
}

TEST(World, StreamsDependOnSeedAndPurposeAlone) {
  World a(1);
  World b(1);
  b.schedule_after(seconds(1), [] {});
  b.run_until_idle(10);
  EXPECT_EQ(a.stream("loss").next(), b.stream("loss").next());
  EXPECT_NE(a.stream("loss").next(), a.stream("delay").next());
  EXPECT_NE(a.stream("loss").next(), World(2).stream("loss").next());
}

TEST(World, TraceTellsHistoriesApart) {
  const auto trace = [](const std::vector<int>& times) {
    World world(1);
    for (const int t : times) world.schedule_after(seconds(t), [] {});
    world.run_until_idle(100);
    return world.trace();
  };
  EXPECT_EQ(trace({1, 2, 3}), trace({1, 2, 3}));
  EXPECT_NE(trace({1, 2, 3}), trace({1, 2, 4}));
  EXPECT_NE(trace({1, 2}), trace({1, 2, 2}));
}

}  // namespace
}  // namespace conclave::sim
