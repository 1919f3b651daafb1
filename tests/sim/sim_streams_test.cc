#include "sim_streams.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace conclave::cluster_sim {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

class SimStreamsTest : public testing::Test {
 protected:
  SimStreamsTest() { make({.latency = microseconds(100)}, 1); }

  void make(const sim::LinkModel& link, std::uint64_t seed) {
    streams_.reset();
    world_ = std::make_unique<sim::World>(seed);
    network_ =
        std::make_unique<sim::Network>(*world_, sim::NetworkOptions{.n_nodes = 2, .link = link});
    streams_ = std::make_unique<SimStreams>(*network_);
    stories_.assign(2, "");
    attach(0);
    attach(1);
  }
  void attach(std::size_t node) {
    streams_->attach(node, {.opened =
                                [this, node](StreamId id, std::size_t peer) {
                                  last_id_ = id;
                                  stories_[node] += "open" + std::to_string(peer) + ' ';
                                },
                            .message =
                                [this, node](StreamId, std::string_view message) {
                                  stories_[node] += std::string(message) + ' ';
                                },
                            .closed = [this, node](StreamId) { stories_[node] += "closed "; }});
  }
  void run_for(int ms) { world_->run_until(world_->now() + milliseconds(ms), 1'000'000); }

  std::unique_ptr<sim::World> world_;
  std::unique_ptr<sim::Network> network_;
  std::unique_ptr<SimStreams> streams_;
  std::vector<std::string> stories_;
  StreamId last_id_ = 0;
};

TEST_F(SimStreamsTest, CarriesMessagesBothWays) {
  const StreamId id = streams_->connect(1, 0);
  streams_->send(1, id, "hello");  // before it is open
  run_for(50);
  streams_->send(0, id, "welcome");
  streams_->send(1, id, "report");
  run_for(50);
  EXPECT_EQ(stories_[0], "open1 hello report ");
  EXPECT_EQ(stories_[1], "open0 welcome ");
}

TEST_F(SimStreamsTest, WholeOnceAndInOrderOnAnyNetwork) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    make({.latency = microseconds(100),
          .jitter_mean = milliseconds(2),
          .loss = 0.3,
          .duplication = 0.3,
          .reordering = 0.3,
          .reorder_mean = milliseconds(10)},
         seed);
    const StreamId id = streams_->connect(1, 0);
    std::string expected = "open1 ";
    for (int i = 0; i < 30; ++i) {
      streams_->send(1, id, std::to_string(i));
      expected += std::to_string(i) + ' ';
      run_for(i % 5);
    }
    run_for(2000);
    EXPECT_EQ(stories_[0], expected) << seed;
    EXPECT_EQ(stories_[1], "open0 ") << seed;
  }
}

TEST_F(SimStreamsTest, APartitionIsSilentAndAllComesLater) {
  const StreamId id = streams_->connect(1, 0);
  run_for(10);
  network_->cut(1, 0);
  network_->cut(0, 1);
  streams_->send(1, id, "a");
  run_for(500);
  EXPECT_EQ(stories_[0], "open1 ");
  network_->heal(1, 0);
  network_->heal(0, 1);
  streams_->send(1, id, "b");
  run_for(100);
  EXPECT_EQ(stories_[0], "open1 a b ");
}

TEST_F(SimStreamsTest, CloseIsHeardByTheOtherEndAlone) {
  const StreamId id = streams_->connect(1, 0);
  run_for(10);
  streams_->close(0, id);
  run_for(100);
  EXPECT_EQ(stories_[0], "open1 ");
  EXPECT_EQ(stories_[1], "open0 closed ");
  streams_->send(1, id, "ignored");
  run_for(100);
  EXPECT_EQ(stories_[0], "open1 ");
}

TEST_F(SimStreamsTest, ACrashIsSilentUntilTheMachineIsBack) {
  const StreamId id = streams_->connect(1, 0);
  run_for(10);
  network_->crash(0);
  streams_->detach(0);
  streams_->send(1, id, "a");
  run_for(300);
  EXPECT_EQ(stories_[1], "open0 ");
  network_->restart(0);
  attach(0);
  run_for(100);
  EXPECT_EQ(stories_[1], "open0 closed ");
  EXPECT_EQ(stories_[0], "open1 ");
}

TEST_F(SimStreamsTest, RefusedWhereNobodyListens) {
  streams_->detach(0);
  streams_->connect(1, 0);
  run_for(50);
  EXPECT_EQ(stories_[1], "closed ");
}

TEST_F(SimStreamsTest, MoreThanCanWaitEndsTheConnection) {
  const StreamId id = streams_->connect(1, 0);
  run_for(10);
  network_->cut(1, 0);
  for (std::size_t i = 0; i <= kUnacknowledgedMax; ++i) streams_->send(1, id, "x");
  run_for(1);
  EXPECT_EQ(stories_[1], "open0 closed ");
}

}  // namespace
}  // namespace conclave::cluster_sim
