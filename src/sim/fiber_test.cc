#include "sim/fiber.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace conclave::sim {
namespace {

// Says when it is destroyed.
struct Witness {
  explicit Witness(int& count) : n_destroyed(count) {}
  ~Witness() { ++n_destroyed; }
  Witness(const Witness&) = delete;
  Witness& operator=(const Witness&) = delete;
  int& n_destroyed;
};

TEST(Fiber, RunsFromYieldToYield) {
  FiberStacks stacks;
  std::string story;
  Fiber fiber(stacks, [&](Fiber& self) {
    story += 'a';
    self.yield();
    story += 'b';
    self.yield();
    story += 'c';
  });
  EXPECT_EQ(story, "");
  fiber.resume();
  story += '1';
  EXPECT_FALSE(fiber.finished());
  fiber.resume();
  story += '2';
  fiber.resume();
  EXPECT_EQ(story, "a1b2c");
  EXPECT_TRUE(fiber.finished());
}

TEST(Fiber, KeepsItsStackWhileOthersRun) {
  FiberStacks stacks;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<int> sums(20);
  for (int f = 0; f < 20; ++f) {
    fibers.push_back(std::make_unique<Fiber>(stacks, [f, &sums](Fiber& self) {
      std::array<int, 500> numbers{};
      for (int i = 0; i < 500; ++i) {
        numbers[static_cast<std::size_t>(i)] = f * i;
        if (i % 100 == 0) self.yield();
      }
      for (const int n : numbers) sums[static_cast<std::size_t>(f)] += n;
    }));
  }
  for (int round = 0; round < 6; ++round) {
    for (const auto& fiber : fibers) fiber->resume();
  }
  for (int f = 0; f < 20; ++f) EXPECT_EQ(sums[static_cast<std::size_t>(f)], f * 499 * 250);
}

// Deep calls that yield from below, with locals on every frame.
int descend(Fiber& self, int depth) {
  std::array<char, 100> frame{};
  frame[static_cast<std::size_t>(depth) % frame.size()] = 1;
  if (depth == 0) {
    self.yield();
  } else {
    return descend(self, depth - 1) + frame[static_cast<std::size_t>(depth) % frame.size()];
  }
  return 0;
}

TEST(Fiber, YieldsFromDeepCalls) {
  FiberStacks stacks;
  int depth = 0;
  Fiber fiber(stacks, [&](Fiber& self) { depth = descend(self, 200); });
  fiber.resume();
  EXPECT_EQ(depth, 0);
  fiber.resume();
  EXPECT_EQ(depth, 200);
}

TEST(Fiber, DestroyedWhileItWaitsItUnwindsAndRunsNothingMore) {
  FiberStacks stacks;
  int n_destroyed = 0;
  bool went_on = false;
  {
    Fiber fiber(stacks, [&](Fiber& self) {
      const Witness outer(n_destroyed);
      const auto heap = std::make_unique<std::string>("must not leak, long enough for the heap");
      const auto wait = [&] {
        const Witness inner(n_destroyed);
        descend(self, 50);
        went_on = true;
      };
      wait();
      went_on = true;
    });
    fiber.resume();
    EXPECT_EQ(n_destroyed, 0);
    EXPECT_EQ(stacks.in_use(), 1u);
  }
  EXPECT_EQ(n_destroyed, 2);
  EXPECT_FALSE(went_on);
  EXPECT_EQ(stacks.in_use(), 0u);
}

TEST(Fiber, DestroyedBeforeItsStartItRunsNothing) {
  FiberStacks stacks;
  bool ran = false;
  {
    const Fiber fiber(stacks, [&](Fiber&) { ran = true; });
  }
  EXPECT_FALSE(ran);
  EXPECT_EQ(stacks.kept(), 0u);
}

TEST(Fiber, StacksAreUsedAgain) {
  FiberStacks stacks;
  int n_destroyed = 0;
  for (int i = 0; i < 3000; ++i) {
    Fiber fiber(stacks, [&](Fiber& self) {
      const Witness witness(n_destroyed);
      descend(self, i % 100);
    });
    fiber.resume();
    if (i % 3 == 0) fiber.resume();
  }
  EXPECT_EQ(n_destroyed, 3000);
  EXPECT_EQ(stacks.kept(), 1u);
}

TEST(Fiber, AtMostSoManyStacksAreKept) {
  FiberStacks stacks;
  {
    std::vector<std::unique_ptr<Fiber>> fibers;
    for (std::size_t i = 0; i < kFiberStacksKeptMax + 5; ++i) {
      fibers.push_back(std::make_unique<Fiber>(stacks, [](Fiber& self) { self.yield(); }));
      fibers.back()->resume();
    }
  }
  EXPECT_EQ(stacks.kept(), kFiberStacksKeptMax);
}

TEST(Fiber, FibersResumeAndEndOthers) {
  FiberStacks stacks;
  int n_destroyed = 0;
  std::string story;
  Fiber outer(stacks, [&](Fiber& self) {
    Fiber inner(stacks, [&](Fiber& inside) {
      const Witness witness(n_destroyed);
      story += 'i';
      inside.yield();
      story += 'j';
      inside.yield();
      story += "never";
    });
    inner.resume();
    self.yield();
    inner.resume();
    story += 'o';
    self.yield();
  });
  outer.resume();
  std::optional<Fiber> other;
  other.emplace(stacks, [&](Fiber&) { outer.resume(); });
  other->resume();
  EXPECT_EQ(story, "ijo");
  outer.resume();  // its end destroys `inner`
  EXPECT_TRUE(outer.finished());
  EXPECT_EQ(n_destroyed, 1);
}

TEST(Fiber, ACrashTakesTheFibersOnItsStackAlong) {
  FiberStacks stacks;
  int n_destroyed = 0;
  {
    Fiber outer(stacks, [&](Fiber& self) {
      Fiber inner(stacks, [&](Fiber& inside) {
        const Witness witness(n_destroyed);
        inside.yield();
      });
      inner.resume();
      const Witness witness(n_destroyed);
      self.yield();
    });
    outer.resume();
  }
  EXPECT_EQ(n_destroyed, 2);
  EXPECT_EQ(stacks.in_use(), 0u);
}

TEST(FiberDeathTest, MisuseIsABug) {
  FiberStacks stacks;
  Fiber fiber(stacks, [](Fiber&) {});
  EXPECT_DEATH(fiber.yield(), "CHECK failed");
  fiber.resume();
  EXPECT_DEATH(fiber.resume(), "CHECK failed");
  EXPECT_DEATH(
      {
        std::unique_ptr<Fiber> own;
        own = std::make_unique<Fiber>(stacks, [&](Fiber&) { own.reset(); });
        own->resume();
      },
      "CHECK failed");
}

TEST(FiberDeathTest, ADestructorMustNotWaitInACrash) {
  struct Waits {
    Fiber& self;
    ~Waits() { self.yield(); }
  };
  EXPECT_DEATH(
      {
        FiberStacks stacks;
        Fiber fiber(stacks, [](Fiber& self) {
          const Waits waits{self};
          self.yield();
        });
        fiber.resume();
      },
      "CHECK failed");
}

}  // namespace
}  // namespace conclave::sim
