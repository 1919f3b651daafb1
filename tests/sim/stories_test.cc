// Histories that once went wrong, each with the mistake that it showed.
#include <gtest/gtest.h>

#include "toy_pool.h"

namespace conclave::cluster_sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class Story : public testing::Test {
 protected:
  // So many machines, each with this room, and one long request.
  void pool(std::size_t n_nodes, std::size_t room) {
    scenario_.seed = 1;
    scenario_.n_nodes = n_nodes;
    scenario_.absent.resize(n_nodes);
    scenario_.link.latency = std::chrono::microseconds(100);
    scenario_.faults_end = Time{} + seconds(4);
    toy_.seed = 3;
    toy_.rounding = true;
    toy_.rooms.assign(n_nodes, room);
    toy_.times.operation = milliseconds(10);
    ask(milliseconds(500), 100, 40);
  }
  void ask(Duration at, std::size_t prompt_tokens, std::size_t answer_tokens) {
    scenario_.requests.push_back({.at = Time{} + at,
                                  .prompt_tokens = prompt_tokens,
                                  .answer_tokens = answer_tokens,
                                  .seed = scenario_.requests.size()});
  }
  Fault& fault(FaultKind kind, std::size_t node, Duration at) {
    Fault& fault = scenario_.faults.emplace_back();
    fault.kind = kind;
    fault.node = node;
    fault.at = Time{} + at;
    fault.lasts = milliseconds(1);
    return fault;
  }
  void run(Duration limit) {
    const Outcome outcome =
        run_toy(scenario_, toy_, stacks_, reached_, {.after_faults = limit, .events = 500'000});
    EXPECT_FALSE(outcome.failure) << *outcome.failure;
    took_ = outcome.took;
  }

  Scenario scenario_;
  ToyOptions toy_;
  sim::FiberStacks stacks_;
  Reached reached_;
  Duration took_{};
};

TEST_F(Story, NothingHappens) {
  pool(3, kToyUnits);
  run(seconds(10));
  EXPECT_EQ(reached_.answered, 1u);
  EXPECT_EQ(reached_.epochs, 1u);
}

// The survivors had to divide the model anew. Their caches still agreed, so the head went on with
// an engine that the worker had thrown away with the old layout: the request was never admitted
// again.
TEST_F(Story, ADivisionInTheMiddleOfAnAnswer) {
  pool(3, kToyUnits / 2);
  toy_.cover_losses = 0;
  fault(FaultKind::kNodeCrash, 2, milliseconds(1500)).forever = true;
  for (toy_.seed = 0; toy_.seed < 20; ++toy_.seed) run(seconds(10));
  EXPECT_EQ(reached_.answered, 20u);
  EXPECT_GT(reached_.layouts, 20u);
}

// Layouts were numbered from 1 in each life of the head. Nodes whose workers outlived a quick
// restart took the new head's layout 1, of fewer machines, for the one that they had in memory.
TEST_F(Story, AHeadThatIsSoonBackWithFewerMachines) {
  pool(4, kToyUnits / 2);
  fault(FaultKind::kAgentCrash, 3, milliseconds(900)).forever = true;
  fault(FaultKind::kAgentCrash, 0, milliseconds(1000)).lasts = milliseconds(200);
  ask(milliseconds(1500), 10, 10);
  run(seconds(10));
  EXPECT_EQ(reached_.lost_with_head, 1u);
  EXPECT_EQ(reached_.answered, 1u);
}

// A node's new connection replaced the old one, so nobody said that its last life was over, and
// the number of its first worker was the same: the head kept it in the epoch.
TEST_F(Story, AnAgentThatIsBackBeforeItIsMissed) {
  pool(3, kToyUnits);
  fault(FaultKind::kPartition, 2, milliseconds(1500)).lasts = milliseconds(150);
  fault(FaultKind::kAgentCrash, 2, milliseconds(1550)).lasts = milliseconds(5);
  run(seconds(10));
  EXPECT_EQ(reached_.answered, 1u);
  EXPECT_LT(took_, seconds(8));
}

// Each of the two was heard by the head. Joining failed again and again: nobody said who had not
// come, and rank 0, which reached both, counted each attempt as a success.
TEST_F(Story, TwoNodesThatNeverReachEachOther) {
  pool(4, kToyUnits);
  Fault& between = fault(FaultKind::kBetween, 1, milliseconds(1500));
  between.other = 2;
  between.both_ways = true;
  between.forever = true;
  run(seconds(20));
  EXPECT_EQ(reached_.answered, 1u);
}

// As before, where the others can do without neither: for ever, instead of a stated error.
TEST_F(Story, TwoNodesThatNeverReachEachOtherAndAreNeeded) {
  pool(4, kToyUnits / 4);
  Fault& between = fault(FaultKind::kBetween, 1, milliseconds(1500));
  between.other = 2;
  between.both_ways = true;
  between.forever = true;
  run(seconds(40));
  EXPECT_EQ(reached_.failed_short, 1u);
}

// Its heartbeat went on and it was busy with nothing, so nobody killed it; it never joined.
TEST_F(Story, AWorkerWhoseThreadHangs) {
  for (const std::size_t node : {0u, 1u, 2u}) {
    for (const int at_ms : {700, 1500}) {
      scenario_ = {};
      reached_ = {};
      pool(3, kToyUnits);
      fault(FaultKind::kWorkerStuck, node, milliseconds(at_ms)).forever = true;
      run(seconds(10));
      EXPECT_EQ(reached_.answered, 1u) << node << ' ' << at_ms;
    }
  }
}

// Copies were placed by what was in memory at that moment. Each that came moved others, which then
// were loaded and dropped for ever.
TEST_F(Story, BackupsComeToRest) {
  pool(5, 0);
  scenario_.requests[0] = {
      .at = Time{} + milliseconds(500), .prompt_tokens = 7, .answer_tokens = 12};
  scenario_.absent[2] = true;
  toy_.seed = 6;  // one of the divisions in which it happened
  toy_.rooms = {9, 9, 10, 9, 12};
  toy_.settles = true;
  toy_.rounding = false;
  toy_.times.operation = std::chrono::microseconds(3664);
  toy_.times.spawn = milliseconds(75);
  toy_.times.load_common = milliseconds(25);
  toy_.times.load_bytes_per_second = 9571.56;
  scenario_.link = {.latency = std::chrono::microseconds(26), .bandwidth = 3e9};
  scenario_.cabling = sim::Cabling::kPerPair;
  fault(FaultKind::kDrain, 1, milliseconds(494)).lasts = milliseconds(630);
  fault(FaultKind::kJoin, 2, milliseconds(500));
  fault(FaultKind::kAgentStop, 2, milliseconds(575)).lasts = milliseconds(2475);
  run(seconds(10));
  EXPECT_EQ(reached_.answered, 1u);
}

// Nobody had counted how long the requests of a pool waited that never had enough machines.
TEST_F(Story, APoolThatNeverComesTogether) {
  pool(2, kToyUnits / 2);
  scenario_.absent[1] = true;
  run(seconds(30));
  EXPECT_EQ(reached_.failed_short, 1u);
}

// The owner let a machine go that the others could not do without: after a while all requests
// failed, though it was there and computing.
TEST_F(Story, AMachineThatIsNeededIsNotLetGo) {
  pool(2, kToyUnits / 2);
  fault(FaultKind::kDrain, 1, milliseconds(1000)).forever = true;
  run(seconds(30));
  EXPECT_EQ(reached_.answered, 1u);
  EXPECT_EQ(reached_.drains, 0u);
}

// A request that kills workers is failed alone. Two ways led round that: the peers noticed the end
// of a worker before its agent did, so it counted as a bad network; and where another worker than
// the head's ended, the engine repeated the step for ever.
TEST_F(Story, ARequestOnWhichWorkersEnd) {
  for (const std::size_t node : {0u, 1u}) {
    scenario_ = {};
    reached_ = {};
    pool(2, kToyUnits / 2);
    for (std::size_t nth = 0; nth < 100; ++nth) {
      Fault& crash = fault(FaultKind::kWorkerCrash, node, {});
      crash.at_phase = true;
      crash.phase = Phase::kPrefill;
      crash.nth = nth;
    }
    scenario_.faults_end = Time{} + seconds(30);
    ask(seconds(31), 20, 20);
    run(seconds(10));
    EXPECT_EQ(reached_.failed_barren, 1u);
    EXPECT_EQ(reached_.answered, 1u);
  }
}

}  // namespace
}  // namespace conclave::cluster_sim
