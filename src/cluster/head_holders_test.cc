// Whom the head names to machines without the model's files.
#include <gtest/gtest.h>

#include <vector>

#include "cluster/head.h"

namespace conclave::cluster {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kModel = 77;

// Everything on the head.
class HeadPlacer final : public Placer {
 public:
  Result<Layout> place(std::span<const NodeFacts>) override {
    Layout layout;
    layout.model = kModel;
    layout.homes = {kHeadNode};
    layout.virtual_ranks = {{.group = 0,
                             .slice = {{0, 8}, {0, 128}, {0, 128}, {0, 1024}, {0, 96}},
                             .weight_bytes = 100}};
    return layout;
  }
};

class HeadHoldersTest : public testing::Test {
 protected:
  HeadHoldersTest() {
    hello(0, {kModel}, 4000);
    hello(1, {5, kModel}, 4001);
    hello(2, {5}, 4002);  // files of another model
    tick(400ms);
  }

  void hello(std::uint64_t node, const std::vector<std::uint64_t>& models, std::uint32_t port) {
    wire::pb::Hello message;
    message.set_life(100 + node);
    message.set_bulk_port(port);
    message.mutable_machine()->set_usable_bytes(1 << 30);
    message.mutable_machine()->set_memory_bytes(1 << 30);
    for (const std::uint64_t model : models) message.add_models(model);
    head_.on_hello(now_, NodeId{node}, message);
  }
  void tick(Duration time) {
    for (const Time end = now_ + time; now_ < end; now_ += 50ms) {
      for (std::uint64_t node = 0; node < 3; ++node) {
        if (node == silent_) continue;
        wire::pb::Report report;
        report.set_sequence(++sequence_);
        head_.on_report(now_, NodeId{node}, report);
      }
      head_.on_tick(now_);
    }
  }
  // Ports of the holders in the last assignment of this node.
  std::vector<std::uint32_t> holders_for(std::uint64_t node) {
    std::vector<std::uint32_t> ports;
    for (const HeadAction& action : head_.take_actions()) {
      const auto* send = std::get_if<SendAssignment>(&action);
      if (send == nullptr || send->node != NodeId{node}) continue;
      ports.clear();
      for (const wire::pb::WeightHolder& holder : send->assignment.holders()) {
        ports.push_back(holder.endpoint().port());
      }
    }
    return ports;
  }

  HeadPlacer placer_;
  Head head_{{}, placer_};
  Time now_{1h};
  std::uint64_t silent_ = 99;
  std::uint64_t sequence_ = 0;
};

TEST_F(HeadHoldersTest, ThoseWithTheFilesAreNamedToThoseWithout) {
  EXPECT_EQ(holders_for(2), (std::vector<std::uint32_t>{4000, 4001}));
}

TEST_F(HeadHoldersTest, WhoHasTheFilesReadsItsOwn) {
  EXPECT_TRUE(holders_for(1).empty());
  EXPECT_TRUE(holders_for(0).empty());
}

TEST_F(HeadHoldersTest, WhoIsSilentOrGoneIsNotNamed) {
  silent_ = 1;
  tick(2500ms);
  EXPECT_EQ(holders_for(2), std::vector<std::uint32_t>{4000});
  silent_ = 99;
  tick(1s);
  EXPECT_EQ(holders_for(2), (std::vector<std::uint32_t>{4000, 4001}));
  head_.on_gone(now_, NodeId{1}, "pulled");
  tick(1s);
  EXPECT_EQ(holders_for(2), std::vector<std::uint32_t>{4000});
}

TEST_F(HeadHoldersTest, WhoGivesNothingIsNotNamed) {
  hello(1, {kModel}, 0);
  tick(1s);
  EXPECT_EQ(holders_for(2), std::vector<std::uint32_t>{4000});
}

TEST_F(HeadHoldersTest, TheStatusSaysWhoHasThem) {
  const HeadStatus status = head_.status(now_);
  ASSERT_EQ(status.nodes.size(), 3u);
  EXPECT_TRUE(status.nodes[0].has_files);
  EXPECT_TRUE(status.nodes[1].has_files);
  EXPECT_FALSE(status.nodes[2].has_files);
}

}  // namespace
}  // namespace conclave::cluster
