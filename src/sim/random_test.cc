#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "sim/sim.h"

namespace conclave::sim {
namespace {

constexpr int kDraws = 100'000;

TEST(RandomStream, SameKeySameNumbers) {
  RandomStream a(7);
  RandomStream b(7);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.next(), b.next());
}

TEST(RandomStream, ChildrenDoNotDependOnDrawsOfTheirParent) {
  RandomStream parent(7);
  const std::uint64_t before = parent.child(3).next();
  parent.next();
  EXPECT_EQ(parent.child(3).next(), before);
}

TEST(RandomStream, ChildrenAndNumbersAreAllDifferent) {
  RandomStream parent(7);
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    EXPECT_TRUE(seen.insert(parent.next()).second);
    RandomStream child = parent.child(i);
    EXPECT_TRUE(seen.insert(child.next()).second);
    EXPECT_TRUE(seen.insert(child.child(i).next()).second);
  }
}

TEST(RandomStream, ExponentialHasItsMean) {
  RandomStream random(1);
  const Duration mean = std::chrono::microseconds(50);
  double sum = 0.0;
  for (int i = 0; i < kDraws; ++i) sum += seconds(random.exponential(mean));
  // The standard deviation of an exponential is its mean.
  EXPECT_NEAR(sum / kDraws, 50e-6, 5.0 * 50e-6 / std::sqrt(double{kDraws}));
  EXPECT_EQ(random.exponential(Duration::zero()), Duration::zero());
}

TEST(RandomStream, NormalHasItsMoments) {
  RandomStream random(2);
  double sum = 0.0;
  double squares = 0.0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0.0, 5.0 / std::sqrt(double{kDraws}));
  EXPECT_NEAR(squares / kDraws, 1.0, 5.0 * std::sqrt(2.0 / kDraws));
}

TEST(RandomStream, BelowReachesEveryValue) {
  RandomStream random(3);
  std::set<std::size_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(random.below(7));
  EXPECT_EQ(seen, (std::set<std::size_t>{0, 1, 2, 3, 4, 5, 6}));
}

TEST(RandomStream, CertainAndImpossible) {
  RandomStream random(4);
  EXPECT_FALSE(random.chance(0.0));
  EXPECT_TRUE(random.chance(1.0));
}

TEST(FromSeconds, RoundsToNanoseconds) {
  EXPECT_EQ(from_seconds(1.5e-6), std::chrono::nanoseconds(1500));
  EXPECT_EQ(from_seconds(0.7e-9), std::chrono::nanoseconds(1));
}

}  // namespace
}  // namespace conclave::sim
