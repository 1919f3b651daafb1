#include "sim_transport.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "collective/collective.h"

namespace conclave::cluster_sim {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using transport::Received;

constexpr sim::LinkModel kLink{.latency = microseconds(50), .bandwidth = 1e9};

// Workers that join one epoch and then do what the test says.
class SimTransportTest : public testing::Test {
 protected:
  using Body = std::function<void(transport::Transport&, Process&)>;

  void make(std::size_t n, const sim::LinkModel& link = kLink, std::uint64_t seed = 1) {
    world_ = std::make_unique<sim::World>(seed);
    network_ =
        std::make_unique<sim::Network>(*world_, sim::NetworkOptions{.n_nodes = n, .link = link});
    data_plane_ = std::make_unique<SimSwitch>(*world_, *network_);
    ranks_.resize(n);
    joined_.assign(n, "");
    processes_.resize(n);
  }
  // Endpoints are known before the first event: the ports are given in the order of start().
  void start(std::size_t node, std::uint32_t epoch, Body body, Duration delay = {}) {
    ranks_[node] = {.host = "node-" + std::to_string(node),
                    .port = next_port_++,
                    .fingerprint = {},
                    .clear = true,
                    .host_id = "node-" + std::to_string(node)};
    processes_[node] = std::make_unique<Process>(
        Machinery{*world_, *network_, stacks_}, node,
        [this, node, epoch, body = std::move(body), delay](Process& self) {
          SimFabric fabric(*data_plane_, self);
          ASSERT_EQ(fabric.endpoint(), ranks_[node]);
          if (delay > Duration::zero()) self.compute(delay);
          const transport::GroupSpec spec{
              .cluster = 7, .epoch = epoch, .rank = static_cast<Rank>(node), .ranks = ranks_};
          const auto transport = fabric.join(spec, self.world().now() + milliseconds(500), nullptr);
          joined_[node] = transport ? "joined" : transport.error().message;
          if (transport) body(*transport.value(), self);
        });
  }
  void run_for(int ms) { world_->run_until(world_->now() + milliseconds(ms), 1'000'000); }

  sim::FiberStacks stacks_;
  std::unique_ptr<sim::World> world_;
  std::unique_ptr<sim::Network> network_;
  std::unique_ptr<SimSwitch> data_plane_;
  std::vector<transport::Endpoint> ranks_;
  std::vector<std::string> joined_;
  std::vector<std::unique_ptr<Process>> processes_;
  std::uint16_t next_port_ = 1;
};

void send_number(transport::Transport& transport, Rank to, std::uint32_t number) {
  const auto bytes = std::as_bytes(std::span(&number, 1));
  wire::DataHeader header;
  header.step = number;
  transport.send(to, header, {&bytes, 1});
}

// wait() also ends where a message comes.
void stay(Process& self, Duration duration) {
  const Time end = self.world().now() + duration;
  while (self.world().now() < end) self.wait(end);
}

const auto kIdle = [](transport::Transport&, Process& self) {
  for (;;) self.wait(Time::max());
};

TEST_F(SimTransportTest, MessagesArriveWholeAndInOrder) {
  make(2);
  std::vector<std::uint32_t> steps;
  start(0, 3, [](transport::Transport& t, Process& self) {
    for (std::uint32_t i = 0; i < 5; ++i) send_number(t, 1, i);
    kIdle(t, self);
  });
  start(1, 3, [&](transport::Transport& t, Process&) {
    for (std::uint32_t i = 0; i < 5; ++i) {
      const Received received = t.receive(Time::max());
      ASSERT_EQ(received.kind, Received::Kind::kMessage);
      EXPECT_EQ(received.message.from, 0);
      EXPECT_EQ(received.message.header.epoch, 3u);
      EXPECT_EQ(received.message.header.sequence, i);
      EXPECT_EQ(received.message.header.size, 4u);
      EXPECT_EQ(received.message.payload.size(), 4u);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(received.message.payload.data()) % 8, 0u);
      steps.push_back(received.message.header.step);
    }
    EXPECT_EQ(t.stats()[0].messages_received, 5u);
    EXPECT_EQ(t.stats()[0].bytes_received, 20u);
  });
  run_for(100);
  EXPECT_EQ(steps, (std::vector<std::uint32_t>{0, 1, 2, 3, 4}));
}

TEST_F(SimTransportTest, ReceiveEndsAtItsDeadline) {
  make(2);
  Duration waited{};
  start(0, 1, kIdle);
  start(1, 1, [&](transport::Transport& t, Process& self) {
    const Time begin = self.world().now();
    EXPECT_EQ(t.receive(begin + milliseconds(30)).kind, Received::Kind::kDeadline);
    waited = self.world().now() - begin;
  });
  run_for(200);
  EXPECT_EQ(waited, milliseconds(30));
}

TEST_F(SimTransportTest, AWatchInterruptsTheWait) {
  struct Flag final : transport::Watch {
    int fd() const override { return -1; }
    bool interrupted() override { return set; }
    bool set = false;
  };
  make(2);
  Flag flag;
  std::string end;
  start(0, 1, kIdle);
  ranks_[1] = {.host = "node-1", .port = 2, .fingerprint = {}, .clear = true, .host_id = "node-1"};
  processes_[1] =
      std::make_unique<Process>(Machinery{*world_, *network_, stacks_}, 1, [&](Process& self) {
        SimFabric fabric(*data_plane_, self);
        const transport::GroupSpec spec{.cluster = 7, .epoch = 1, .rank = 1, .ranks = ranks_};
        const auto transport = fabric.join(spec, Time::max(), &flag);
        ASSERT_TRUE(transport);
        EXPECT_EQ(transport.value()->receive(Time::max()).kind, Received::Kind::kInterrupted);
        end = "interrupted";
        const auto again =
            fabric.join({.cluster = 7, .epoch = 2, .rank = 1, .ranks = ranks_}, Time::max(), &flag);
        ASSERT_FALSE(again);
        end += ", " + again.error().message;
      });
  run_for(50);
  EXPECT_EQ(end, "");
  flag.set = true;
  processes_[1]->wake();
  run_for(50);
  EXPECT_EQ(end, "interrupted, interrupted");
}

TEST_F(SimTransportTest, APeerThatEndsIsLostAfterTheLatency) {
  make(2);
  Time at{};
  std::string reason;
  start(0, 1, kIdle);
  start(1, 1, [&](transport::Transport& t, Process& self) {
    const Received received = t.receive(Time::max());
    EXPECT_EQ(received.kind, Received::Kind::kPeerLost);
    EXPECT_EQ(received.lost, 0);
    reason = received.reason;
    at = self.world().now();
    EXPECT_EQ(t.receive(Time::max()).kind, Received::Kind::kPeerLost);
  });
  run_for(100);
  const Time crash = world_->now();
  processes_[0] = nullptr;
  run_for(100);
  EXPECT_EQ(reason, "connection closed");
  EXPECT_GE(at - crash, kLink.latency);
  EXPECT_LT(at - crash, 2 * kLink.latency);
}

TEST_F(SimTransportTest, ACrashedMachineIsSilent) {
  make(2);
  std::optional<Received::Kind> kind;
  start(0, 1, kIdle);
  start(1, 1, [&](transport::Transport& t, Process& self) {
    kind = t.receive(self.world().now() + milliseconds(400)).kind;
  });
  run_for(100);
  network_->crash(0);
  processes_[0] = nullptr;
  run_for(500);
  EXPECT_EQ(kind, Received::Kind::kDeadline);
}

TEST_F(SimTransportTest, ARestartedMachineEndsWhatItDoesNotKnow) {
  make(2);
  std::optional<Received::Kind> kind;
  start(0, 1, kIdle);
  start(1, 1, [&](transport::Transport& t, Process& self) {
    stay(self, milliseconds(200));
    send_number(t, 0, 1);
    kind = t.receive(self.world().now() + milliseconds(400)).kind;
  });
  run_for(100);
  network_->crash(0);
  processes_[0] = nullptr;
  network_->restart(0);
  run_for(500);
  EXPECT_EQ(kind, Received::Kind::kPeerLost);
}

TEST_F(SimTransportTest, LossDuplicationAndReorderingLoseThePeer) {
  const auto story = [this](const sim::LinkModel& link) {
    make(2, link);
    next_port_ = 1;
    std::string reason = "nothing";
    start(0, 1, [](transport::Transport& t, Process& self) {
      for (std::uint32_t i = 0; i < 200; ++i) {
        send_number(t, 1, i);
        self.compute(microseconds(20));
      }
      kIdle(t, self);
    });
    start(1, 1, [&](transport::Transport& t, Process& self) {
      for (std::uint32_t i = 0;; ++i) {
        const Received received = t.receive(self.world().now() + milliseconds(100));
        if (received.kind == Received::Kind::kMessage) {
          EXPECT_EQ(received.message.header.step, i);
          continue;
        }
        reason = received.reason.substr(0, 6);
        return;
      }
    });
    run_for(1000);
    processes_.clear();
    return reason;
  };
  sim::LinkModel link = kLink;
  EXPECT_EQ(story(link), "");
  link.loss = 0.1;
  EXPECT_EQ(story(link), "desync");
  link = kLink;
  link.duplication = 0.1;
  EXPECT_EQ(story(link), "desync");
  link = kLink;
  link.reordering = 0.1;
  EXPECT_EQ(story(link), "desync");
}

TEST_F(SimTransportTest, JoinCallsUntilAllAreThere) {
  sim::LinkModel link = kLink;
  link.loss = 0.4;
  make(4, link);
  for (std::size_t node = 0; node < 4; ++node) {
    start(node, 1, kIdle, milliseconds(60) * static_cast<int>(node));
  }
  run_for(600);
  EXPECT_EQ(joined_, std::vector<std::string>(4, "joined"));
  EXPECT_GT(data_plane_->stats().calls_repeated, 0u);
}

TEST_F(SimTransportTest, JoinNamesTheRankThatDidNotCome) {
  make(3);
  for (std::size_t node = 0; node < 3; ++node) start(node, 1, kIdle);
  network_->cut(2, 0);
  network_->cut(2, 1);
  run_for(700);
  EXPECT_EQ(joined_[0], "rank 2 did not come");
  EXPECT_EQ(joined_[1], "rank 2 did not come");
  EXPECT_EQ(joined_[2], "joined");
}

TEST_F(SimTransportTest, RanksOfDifferentEpochsDoNotMeet) {
  make(2);
  start(0, 1, kIdle);
  start(1, 2, kIdle);
  run_for(700);
  EXPECT_EQ(joined_[0], "rank 1 did not come");
  EXPECT_EQ(joined_[1], "rank 0 did not come");
}

TEST_F(SimTransportTest, LateCopiesOfAnOldEpochAreDropped) {
  make(2);
  data_plane_->set_late_copies(1.0);
  const Body send = [](transport::Transport& t, Process& self) {
    for (std::uint32_t i = 0; i < 5; ++i) send_number(t, 1, i);
    stay(self, milliseconds(50));
  };
  std::vector<std::uint32_t> epochs;
  const Body receive = [&](transport::Transport& t, Process& self) {
    for (int i = 0; i < 5; ++i) {
      const Received received = t.receive(self.world().now() + milliseconds(400));
      if (received.kind == Received::Kind::kMessage) {
        epochs.push_back(received.message.header.epoch);
      }
    }
    stay(self, milliseconds(200));
  };
  start(0, 1, send);
  start(1, 1, receive);
  run_for(400);
  start(0, 2, send);
  start(1, 2, receive);
  run_for(400);
  EXPECT_EQ(epochs, (std::vector<std::uint32_t>{1, 1, 1, 1, 1, 2, 2, 2, 2, 2}));
  EXPECT_EQ(data_plane_->stats().stale_dropped, 5u);
}

// ---- collective::Group over it ------------------------------------------------------------------

struct SumsOptions {
  std::size_t n = 4;
  std::size_t rows = 1;
  sim::LinkModel link = kLink;
  std::uint64_t seed = 1;
};

class SumsTest : public SimTransportTest {
 protected:
  // Ranks add rank + 1 in 20 exchanges; each ends with its number of exchanges or an error.
  void run(const SumsOptions& options) {
    make(options.n, options.link, options.seed);
    next_port_ = 1;
    ends_.assign(options.n, {});
    exchanges_.assign(options.n, 0);
    for (std::size_t node = 0; node < options.n; ++node) {
      start(node, 1, [this, options, node](transport::Transport& t, Process& self) {
        add_up(options, node, t, self);
      });
    }
    run_for(3000);
    processes_.clear();
  }
  void add_up(const SumsOptions& options, std::size_t node, transport::Transport& transport,
              Process& self) {
    std::vector<collective::VirtualRank> virtual_ranks;
    for (std::size_t r = 0; r < options.n; ++r) {
      virtual_ranks.push_back({static_cast<std::uint16_t>(r), static_cast<Rank>(r)});
    }
    collective::Group group(
        &transport, self.world(), virtual_ranks,
        {.hidden_size = 4, .direct_bytes_max = 64, .wait_limit = milliseconds(200)});
    const std::vector<float> own(options.rows * 4, static_cast<float>(node + 1));
    const std::size_t total = options.n * (options.n + 1) / 2;
    for (std::uint32_t step = 0; step < 20; ++step) {
      std::vector<float> hidden(own.size(), 100.0f);
      self.compute(microseconds(30));
      const auto done = group.exchange(
          {.step = step}, [&](std::size_t) { return std::span<const float>(own); }, hidden,
          nullptr);
      if (!done) break;
      ++exchanges_[node];
      for (const float h : hidden) ASSERT_EQ(h, 100.0f + static_cast<float>(total));
    }
    if (group.broken()) ends_[node] = group.broken()->kind;
    stay(self, milliseconds(100));  // the last messages of others
  }

  std::vector<std::optional<collective::Broken::Kind>> ends_;
  std::vector<int> exchanges_;
};

TEST_F(SumsTest, RightOnAGoodNetwork) {
  for (const std::size_t rows : {1u, 4u, 5u, 64u}) {
    for (const std::size_t n : {2u, 3u, 5u}) {
      run({.n = n, .rows = rows});
      EXPECT_EQ(exchanges_, std::vector<int>(n, 20)) << n << " ranks, " << rows << " rows";
    }
  }
}

TEST_F(SumsTest, OnABadNetworkNoneOrRightNeverWrong) {
  sim::LinkModel link = kLink;
  link.loss = 0.01;
  link.duplication = 0.01;
  link.reordering = 0.01;
  int n_late = 0;
  int n_lost = 0;
  int n_whole = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    run({.n = 3, .rows = 1 + seed % 8, .link = link, .seed = seed});
    for (std::size_t node = 0; node < 3; ++node) {
      if (joined_[node] != "joined") continue;
      if (!ends_[node]) {
        ++n_whole;
        EXPECT_EQ(exchanges_[node], 20);
        continue;
      }
      EXPECT_TRUE(*ends_[node] == collective::Broken::Kind::kLate ||
                  *ends_[node] == collective::Broken::Kind::kPeerLost);
      n_late += *ends_[node] == collective::Broken::Kind::kLate ? 1 : 0;
      n_lost += *ends_[node] == collective::Broken::Kind::kPeerLost ? 1 : 0;
    }
  }
  EXPECT_GT(n_late, 0);
  EXPECT_GT(n_lost, 100);
  EXPECT_GT(n_whole, 10);
}

}  // namespace
}  // namespace conclave::cluster_sim
