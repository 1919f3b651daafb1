#include "faults.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "scenario.h"

namespace conclave::cluster_sim {
namespace {

using std::chrono::milliseconds;

// Writes down what it is told.
class Diary final : public Machines {
 public:
  void start(std::size_t node) override { note("start", node); }
  void crash(std::size_t node) override { note("crash", node); }
  bool running(std::size_t) const override { return true; }
  bool crash_agent(std::size_t node) override { return note("crash_agent", node); }
  bool stop_agent(std::size_t node) override { return note("stop_agent", node); }
  void continue_agent(std::size_t node) override { note("continue_agent", node); }
  bool crash_worker(std::size_t node) override { return note("crash_worker", node); }
  bool hang_worker(std::size_t node) override { return note("hang_worker", node); }
  bool stick_worker(std::size_t node) override { return note("stick_worker", node); }
  void unhang_worker(std::size_t node) override { note("unhang_worker", node); }
  bool drain(std::size_t node) override { return note("drain", node); }

  std::string text;

 private:
  bool note(const std::string& what, std::size_t node) {
    text += what + ' ' + std::to_string(node) + "; ";
    return true;
  }
};

class FaultsTest : public testing::Test {
 protected:
  void inject(std::vector<Fault> faults) {
    injector_.emplace(world_, network_, data_plane_, diary_, std::move(faults), sim::LinkModel{});
    injector_->start(Time{} + milliseconds(100));
  }
  void run_until(int ms) { world_.run_until(Time{} + milliseconds(ms), 1000); }
  bool arrives(std::size_t from, std::size_t to) {
    const auto arrived = std::make_shared<bool>(false);  // the message may come after this returns
    network_.send(from, to, 10, [arrived] { *arrived = true; });
    world_.run_until(world_.now() + milliseconds(1), 1000);
    return *arrived;
  }
  std::uint64_t fired(FaultKind kind, Phase phase) const {
    return injector_->coverage()
        .fired[static_cast<std::size_t>(kind)][static_cast<std::size_t>(phase)];
  }

  sim::World world_{1};
  sim::Network network_{world_, {.n_nodes = 3}};
  SimSwitch data_plane_{world_, network_};
  Diary diary_;
  std::optional<FaultInjector> injector_;
};

Fault timed(FaultKind kind, std::size_t node, int at_ms, int lasts_ms) {
  Fault fault;
  fault.kind = kind;
  fault.node = node;
  fault.at = Time{} + milliseconds(at_ms);
  fault.lasts = milliseconds(lasts_ms);
  fault.strength = 0.9;
  return fault;
}

TEST_F(FaultsTest, StrikesAtItsTimeAndIsMended) {
  inject({timed(FaultKind::kNodeCrash, 1, 10, 20)});
  run_until(9);
  EXPECT_TRUE(network_.up(1));
  run_until(11);
  EXPECT_FALSE(network_.up(1));
  EXPECT_EQ(diary_.text, "crash 1; ");
  run_until(31);
  EXPECT_TRUE(network_.up(1));
  EXPECT_EQ(diary_.text, "crash 1; start 1; ");
  EXPECT_EQ(fired(FaultKind::kNodeCrash, Phase::kLoad), 1u);
}

TEST_F(FaultsTest, StrikesWhereAPhaseIsReached) {
  Fault fault = timed(FaultKind::kWorkerCrash, 2, 0, 5);
  fault.at_phase = true;
  fault.phase = Phase::kDecode;
  fault.nth = 2;
  inject({fault});
  EXPECT_FALSE(injector_->reached(Phase::kDecode));
  EXPECT_FALSE(injector_->reached(Phase::kPrefill));
  EXPECT_FALSE(injector_->reached(Phase::kDecode));
  EXPECT_TRUE(injector_->reached(Phase::kDecode));
  EXPECT_EQ(diary_.text, "");  // as an event of its own
  run_until(1);
  EXPECT_EQ(diary_.text, "crash_worker 2; ");
  EXPECT_EQ(fired(FaultKind::kWorkerCrash, Phase::kDecode), 1u);
  EXPECT_FALSE(injector_->reached(Phase::kDecode));
}

TEST_F(FaultsTest, APhaseThatComesTooLateIsSpared) {
  Fault fault = timed(FaultKind::kWorkerCrash, 2, 0, 5);
  fault.at_phase = true;
  fault.phase = Phase::kReplan;
  inject({fault});
  run_until(101);
  EXPECT_FALSE(injector_->reached(Phase::kReplan));
}

TEST_F(FaultsTest, PartitionsAreSymmetricOrNot) {
  Fault one_way = timed(FaultKind::kOneWay, 1, 40, 20);
  Fault backwards = timed(FaultKind::kOneWay, 1, 70, 20);
  backwards.backwards = true;
  inject({timed(FaultKind::kPartition, 1, 10, 20), one_way, backwards});
  const auto directions = [&] {
    return std::string(arrives(1, 0) ? "out " : "") + (arrives(0, 1) ? "in " : "") +
           (arrives(0, 2) ? "others" : "");
  };
  run_until(12);
  EXPECT_EQ(directions(), "others");
  run_until(35);
  EXPECT_EQ(directions(), "out in others");
  run_until(42);
  EXPECT_EQ(directions(), "in others");
  run_until(72);
  EXPECT_EQ(directions(), "out others");
  run_until(95);
  EXPECT_EQ(directions(), "out in others");
}

TEST_F(FaultsTest, LinksOfANodeWorsenAndMend) {
  inject({timed(FaultKind::kDelay, 1, 10, 20), timed(FaultKind::kDelay, 1, 15, 30)});
  run_until(20);
  EXPECT_FALSE(arrives(0, 1));
  EXPECT_TRUE(arrives(0, 2));
  run_until(35);
  EXPECT_FALSE(arrives(1, 0));
  run_until(500);  // no message passes one before it
  EXPECT_TRUE(arrives(1, 0));
}

TEST_F(FaultsTest, NothingStrikesWhatIsDown) {
  inject({timed(FaultKind::kNodeCrash, 1, 10, 50), timed(FaultKind::kFreeze, 1, 20, 20),
          timed(FaultKind::kWorkerCrash, 1, 30, 1), timed(FaultKind::kNodeCrash, 1, 40, 5)});
  run_until(61);
  EXPECT_EQ(diary_.text, "crash 1; start 1; ");
  EXPECT_EQ(fired(FaultKind::kFreeze, Phase::kLoad), 0u);
}

TEST_F(FaultsTest, AMachineJoins) {
  network_.crash(2);
  inject({timed(FaultKind::kJoin, 2, 10, 1)});
  run_until(12);
  EXPECT_TRUE(network_.up(2));
  EXPECT_EQ(diary_.text, "start 2; ");
}

TEST(Scenario, OneSeedOneScenario) {
  EXPECT_EQ(describe(draw_scenario(5)), describe(draw_scenario(5)));
  EXPECT_NE(describe(draw_scenario(5)), describe(draw_scenario(6)));
}

TEST(Scenario, DrawsEverySizeAndKind) {
  std::array<int, 6> sizes{};
  std::array<int, kFaultKinds> kinds{};
  int n_without = 0;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const Scenario scenario = draw_scenario(seed);
    ASSERT_GE(scenario.n_nodes, 1u);
    ASSERT_LE(scenario.n_nodes, 5u);
    ASSERT_FALSE(scenario.absent[0]);
    ++sizes[scenario.n_nodes];
    if (scenario.faults.empty()) ++n_without;
    for (const Fault& fault : scenario.faults) {
      ASSERT_LT(fault.node, scenario.n_nodes);
      ASSERT_GT(fault.lasts, Duration::zero());
      ++kinds[static_cast<std::size_t>(fault.kind)];
    }
  }
  for (std::size_t n = 1; n <= 5; ++n) EXPECT_GT(sizes[n], 20) << n;
  for (std::size_t k = 0; k < kFaultKinds; ++k) {
    EXPECT_GT(kinds[k], 10) << name_of(static_cast<FaultKind>(k));
  }
  EXPECT_GT(n_without, 20);
}

}  // namespace
}  // namespace conclave::cluster_sim
