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
  // A busy worker whose counter moves to `progress` and then stands still for `stand`.
  Action work(std::uint64_t progress, Duration stand) {
    for (Duration passed{}; passed < stand; passed += 100ms) {
      supervisor_.on_heartbeat(progress, true);
      if (const Action action = tick(100ms); action != Action::kNone) return action;
    }
    return Action::kNone;
  }
  // The same for ever: what is done about it, and when.
  std::pair<Action, Duration> stuck_at(std::uint64_t progress) {
    const Time begin = clock_.now();
    const Action action = work(progress, 1000s);
    return {action, clock_.now() - begin};
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
  const auto [action, after] = stuck_at(7);
  EXPECT_EQ(action, Action::kKill);
  EXPECT_GE(after, 29s);
  EXPECT_LE(after, 31s);
}

TEST_F(Supervised, LoadingMayTakeLongerForOneTensor) {
  start();
  const auto [action, after] = stuck_at(7);
  EXPECT_EQ(action, Action::kKill);
  EXPECT_GE(after, 299s);
  EXPECT_LE(after, 301s);
}

// A step of 61 layers and 20 s a layer: slow, and alive.
TEST_F(Supervised, ASlowStepLivesAsLongAsItsLayersAdvance) {
  become_ready();
  for (std::uint64_t layer = 2; layer < 63; ++layer) {
    ASSERT_EQ(work(layer, 20s), Action::kNone) << layer;
  }
}

TEST_F(Supervised, OperationsMayGrowWithTheContext) {
  become_ready();
  std::uint64_t progress = 2;
  for (const Duration operation : {6s, 20s, 40s, 100s, 250s}) {
    ASSERT_EQ(work(progress++, operation), Action::kNone) << seconds(operation);
  }
  const auto [action, after] = stuck_at(progress);
  EXPECT_EQ(action, Action::kKill);
  EXPECT_LE(after, 301s) << "the limit has a limit";

  supervisor_.on_exited(clock_.now(), "killed by signal 9");
  become_ready();
  EXPECT_LE(stuck_at(progress).second, 31s) << "what one worker did says nothing of the next";
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

// Only the first rank's worker takes tokens.
TEST_F(Supervised, AWorkerThatStoodForAWhileIsStartedAtOnce) {
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(tick(50ms), Action::kSpawn) << i;
    supervisor_.on_spawned(clock_.now());
    supervisor_.on_ready(clock_.now());
    ASSERT_EQ(work(1, 2s), Action::kNone);
    die();
  }
}

// A head that dies young, again and again: its nodes' workers had no time to become ready.
TEST_F(Supervised, AWorkerThatIsNotNeededHasNotFailed) {
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(tick(50ms), Action::kSpawn) << i << ": at once";
    supervisor_.on_spawned(clock_.now());
    EXPECT_EQ(supervisor_.on_unwanted("its head is silent"), Action::kKill);
    supervisor_.on_exited(clock_.now(), "killed by signal 9");
  }
}

}  // namespace
}  // namespace conclave::cluster
