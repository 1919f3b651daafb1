#include "process.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace conclave::cluster_sim {
namespace {

using std::chrono::milliseconds;

class ProcessTest : public testing::Test {
 protected:
  void run_for(int n) { world_.run_until(world_.now() + milliseconds(n), 10'000); }
  // Milliseconds since the start.
  long now() const { return (world_.now() - Time{}) / milliseconds(1); }
  Time at(int n) const { return Time{} + milliseconds(n); }

  sim::World world_{1};
  sim::Network network_{world_, {.n_nodes = 2}};
  sim::FiberStacks stacks_;
  Machinery machinery_{world_, network_, stacks_};
};

TEST_F(ProcessTest, WaitsUntilTheDeadlineOrAWakeUp) {
  std::vector<long> times;
  Process process(machinery_, 0, [&](Process& self) {
    self.wait(at(10));
    times.push_back(now());
    self.wait(at(30));
    times.push_back(now());
    self.wait(Time::max());
    times.push_back(now());
  });
  run_for(15);
  process.wake();
  run_for(5);
  EXPECT_FALSE(process.ended());
  process.wake();
  run_for(20);
  EXPECT_EQ(times, (std::vector<long>{10, 15, 20}));
  EXPECT_TRUE(process.ended());
}

TEST_F(ProcessTest, AWakeUpBetweenTwoWaitsIsNotLost) {
  long ended = -1;
  Process process(machinery_, 0, [&](Process& self) {
    self.compute(milliseconds(10));
    self.wait(Time::max());
    ended = now();
  });
  run_for(5);
  process.wake();  // must not cut the computation short either
  run_for(20);
  EXPECT_EQ(ended, 10);
}

TEST_F(ProcessTest, AnOldDeadlineEndsNoLaterWait) {
  std::vector<long> times;
  Process process(machinery_, 0, [&](Process& self) {
    self.wait(at(10));
    self.compute(milliseconds(20));
    times.push_back(now());
  });
  run_for(9);
  process.wake();
  run_for(40);
  EXPECT_EQ(times, (std::vector<long>{29}));
}

TEST_F(ProcessTest, IsFrozenWithItsNode) {
  long ended = -1;
  Process process(machinery_, 0, [&](Process& self) {
    self.wait(at(10));
    ended = now();
  });
  run_for(5);
  network_.freeze(0);
  run_for(20);
  EXPECT_EQ(ended, -1);
  network_.unfreeze(0);
  run_for(1);
  EXPECT_EQ(ended, 25);
}

TEST_F(ProcessTest, AHungProcessGoesOnLater) {
  long ended = -1;
  Process process(machinery_, 0, [&](Process& self) {
    self.wait(at(10));
    ended = now();
  });
  run_for(5);
  process.set_hung(true);
  process.wake();
  run_for(20);
  EXPECT_EQ(ended, -1);
  process.set_hung(false);
  run_for(1);
  EXPECT_EQ(ended, 25);
}

TEST_F(ProcessTest, ACrashUnwindsAndNothingOfItComesLater) {
  std::string story;
  struct Note {
    std::string& story;
    ~Note() { story += "unwound "; }
  };
  std::optional<Process> process;
  process.emplace(machinery_, 0, [&](Process& self) {
    const Note note{story};
    self.compute(milliseconds(10));
    story += "went on";
  });
  run_for(5);
  process.reset();
  run_for(20);
  EXPECT_EQ(story, "unwound ");
}

TEST_F(ProcessTest, PauseLetsWhatWasScheduledStrikeThere) {
  std::string story;
  std::optional<Process> process;
  process.emplace(machinery_, 0, [&](Process& self) {
    world_.schedule_at(world_.now(), [&] { process.reset(); });
    story += "before ";
    self.pause();
    story += "after";
  });
  run_for(5);
  EXPECT_EQ(story, "before ");
}

}  // namespace
}  // namespace conclave::cluster_sim
