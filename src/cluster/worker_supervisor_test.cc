#include "cluster/worker_supervisor.h"

#include <gtest/gtest.h>

namespace conclave::cluster {
namespace {

using namespace std::chrono_literals;
using Action = WorkerSupervisor::Action;
using Phase = WorkerSupervisor::Phase;

class Supervised : public testing::Test {
 protected:
  Action tick(Duration by) {
    clock_.advance(by);
    return supervisor_.on_tick(clock_.now());
  }
  // Ticks until something has to be done; how long that took, or nothing within `limit`.
  std::pair<Action, Duration> wait(Duration limit) {
    for (Duration passed{}; passed <= limit; passed += 50ms) {
      if (const Action action = tick(50ms); action != Action::kNone) return {action, passed};
    }
    return {Action::kNone, limit};
  }
  void start() {
    ASSERT_EQ(wait(10s).first, Action::kSpawn);
    supervisor_.on_spawned(clock_.now());
  }
  void become_ready() {
    start();
    supervisor_.on_heartbeat(1, false);
    supervisor_.on_ready(clock_.now());
    ASSERT_EQ(supervisor_.phase(), Phase::kReady);
  }
  void die() {
    EXPECT_EQ(supervisor_.on_lost("its socket closed"), Action::kKill);
    EXPECT_EQ(supervisor_.phase(), Phase::kEnding);
    supervisor_.on_exited(clock_.now(), "killed by signal 9");
  }

  ManualClock clock_;
  WorkerSupervisor supervisor_{SupervisorOptions{}};
};

TEST_F(Supervised, StartsAtOnceAndRestartsAtOnceAfterTheFirstDeath) {
  EXPECT_EQ(tick(0ms), Action::kSpawn);
  supervisor_.on_spawned(clock_.now());
  supervisor_.on_ready(clock_.now());
  die();
  EXPECT_EQ(tick(0ms), Action::kSpawn);
}

TEST_F(Supervised, DoesNotReplaceAWorkerBeforeItIsGone) {
  become_ready();
  EXPECT_EQ(supervisor_.on_lost("its socket closed"), Action::kKill);
  EXPECT_EQ(wait(20s).first, Action::kNone);
  supervisor_.on_exited(clock_.now(), "killed by signal 9");
  EXPECT_EQ(tick(0ms), Action::kSpawn);
}

TEST_F(Supervised, KillsASilentWorkerAfterTwoSeconds) {
  become_ready();
  const auto [action, after] = wait(10s);
  EXPECT_EQ(action, Action::kKill);
  EXPECT_GE(after, 1900ms);
  EXPECT_LE(after, 2100ms);
}

TEST_F(Supervised, APauseOfTheAgentIsNotTheWorkersFault) {
  become_ready();
  EXPECT_EQ(tick(1h), Action::kNone);
  supervisor_.on_heartbeat(1, false);
  EXPECT_EQ(tick(1s), Action::kNone);
}

TEST_F(Supervised, KillsABusyWorkerWithoutProgress) {
  become_ready();
  Duration passed{};
  Action action = Action::kNone;
  while (action == Action::kNone && passed < 1000s) {
    supervisor_.on_heartbeat(7, true);
    action = tick(100ms);
    passed += 100ms;
  }
  EXPECT_EQ(action, Action::kKill);
  EXPECT_GE(passed, 299s);
  EXPECT_LE(passed, 301s);
}

TEST_F(Supervised, AnIdleWorkerMayWaitForEver) {
  become_ready();
  for (int i = 0; i < 20'000; ++i) {
    supervisor_.on_heartbeat(7, false);
    ASSERT_EQ(tick(100ms), Action::kNone);
  }
}

TEST_F(Supervised, BacksOffAndGivesUpAfterFiveEndsInARowBeforeReady) {
  std::vector<Duration> waits;
  while (supervisor_.phase() != Phase::kFailed) {
    const auto [action, after] = wait(20s);
    ASSERT_EQ(action, Action::kSpawn);
    waits.push_back(after);
    supervisor_.on_spawned(clock_.now());
    die();
  }
  ASSERT_EQ(waits.size(), 5u);
  for (std::size_t i = 2; i < waits.size(); ++i) EXPECT_GT(waits[i], waits[i - 1]);
  EXPECT_NE(supervisor_.failure().find("signal 9"), std::string::npos);
  EXPECT_EQ(wait(60s).first, Action::kNone) << "failed is for good";
}

TEST_F(Supervised, DeathsInServiceWithTokensBetweenAreNeverTooMany) {
  for (int i = 0; i < 100; ++i) {
    become_ready();
    supervisor_.on_token();
    die();
    ASSERT_EQ(supervisor_.phase(), Phase::kWaiting);
  }
  EXPECT_EQ(supervisor_.restarts(), 99u);
}

TEST_F(Supervised, DeathsAfterReadyBackOffAndAreNeverTooMany) {
  for (int i = 0; i < 100; ++i) {
    become_ready();
    die();
    ASSERT_EQ(supervisor_.phase(), Phase::kWaiting);
  }
  EXPECT_EQ(wait(4s).first, Action::kNone) << "the longest backoff is five seconds";
  // Being ready once does not excuse workers that never are.
  for (int i = 0; i < 5; ++i) {
    start();
    die();
  }
  EXPECT_EQ(supervisor_.phase(), Phase::kFailed);
}

TEST_F(Supervised, AStableWorkerForgivesEarlierEnds) {
  for (int i = 0; i < 4; ++i) {
    start();
    die();
  }
  become_ready();
  for (int i = 0; i < 110; ++i) {
    supervisor_.on_heartbeat(1, false);
    ASSERT_EQ(tick(100ms), Action::kNone);
  }
  die();
  EXPECT_EQ(tick(0ms), Action::kSpawn) << "no backoff";
}

TEST_F(Supervised, AWorkerThatSaysItCannotIsNotRetried) {
  start();
  EXPECT_EQ(supervisor_.on_refused("model.safetensors: truncated"), Action::kKill);
  supervisor_.on_exited(clock_.now(), "exit status 1");
  EXPECT_EQ(supervisor_.phase(), Phase::kFailed);
  EXPECT_EQ(supervisor_.failure(), "model.safetensors: truncated");
  EXPECT_FALSE(supervisor_.was_ready());
}

}  // namespace
}  // namespace conclave::cluster
