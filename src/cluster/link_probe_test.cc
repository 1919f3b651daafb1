// Against a server of this machine, over real connections.
#include "cluster/link_probe.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "cluster/control_hub.h"
#include "cluster/weight_server.h"

namespace conclave::cluster {
namespace {

using transport::Fingerprint;
using transport::Identity;
using namespace std::chrono_literals;

const RealClock kClock;

// An agent without a model that lets one member in.
class Other {
 public:
  explicit Other(const Fingerprint& member) : server_({}, kClock, {}) {
    HubHandlers handlers{
        .trust =
            [member](const Fingerprint& peer) {
              return peer == member ? Trust::kMember : Trust::kRefused;
            },
        .on_open =
            [this](const OpenedConnection& connection) {
              server_.add(hub_->take(connection.id), "prober");
            },
        .on_message = [](ConnectionId, std::string_view) {},
        .on_close = [](ConnectionId, const std::string&) {},
        .on_refused = [](const std::string&, const std::string&) {},
    };
    hub_ = ControlHub::create(identity_, {.build = "other"}, std::move(handlers)).value();
    port_ = hub_->listen("127.0.0.1", 0).value();
    thread_ = std::thread([this] {
      while (!ending_) {
        pollfd ready{hub_->fd(), POLLIN, 0};
        ::poll(&ready, 1, 20);
        hub_->poll(kClock.now());
      }
    });
  }
  ~Other() {
    ending_ = true;
    thread_.join();
  }
  WeightHolder holder() const {
    WeightHolder holder{.node = {}, .endpoint = {}};
    holder.endpoint.host = "127.0.0.1";
    holder.endpoint.port = port_;
    holder.endpoint.fingerprint = identity_.fingerprint();
    return holder;
  }

 private:
  WeightServer server_;
  Identity identity_ = Identity::generate("other").value();
  std::unique_ptr<ControlHub> hub_;
  std::uint16_t port_ = 0;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

bool never() { return false; }

TEST(LinkProbe, MeasuresAGoodLink) {
  const Identity self = Identity::generate("self").value();
  const Other other(self.fingerprint());
  const LinkMeasurement link = measure_link(other.holder(), self, kClock, never);
  EXPECT_EQ(link.error, "");
  EXPECT_GT(link.connect_seconds, 0.0);
  EXPECT_GT(link.rtt_seconds, 0.0);
  EXPECT_GE(link.rtt_slow_seconds, link.rtt_seconds);
  EXPECT_GT(link.bandwidth, 1e6);
  EXPECT_LT(std::abs(link.clock_ahead_seconds), 1.0);  // it is the same clock
  EXPECT_EQ(link.interface, "lo");
  EXPECT_GT(link.path_mtu, 1000u);
  EXPECT_FALSE(link.wireless);
}

TEST(LinkProbe, SaysWhyThereIsNone) {
  const Identity self = Identity::generate("self").value();
  const Identity stranger = Identity::generate("stranger").value();
  const Other other(stranger.fingerprint());
  EXPECT_NE(measure_link(other.holder(), self, kClock, never).error, "");  // it refuses
  WeightHolder nobody = other.holder();
  nobody.endpoint.fingerprint = stranger.fingerprint();
  EXPECT_NE(measure_link(nobody, stranger, kClock, never).error, "");  // another answers
  nobody.endpoint.port = 1;
  const LinkMeasurement closed = measure_link(nobody, self, kClock, never);
  EXPECT_NE(closed.error, "");
  EXPECT_EQ(closed.rtt_seconds, 0.0);
}

TEST(LinkProbe, AThreadMeasuresAndTheDescriptorTells) {
  const Identity self = Identity::generate("self").value();
  const Other other(self.fingerprint());
  LinkProber prober(self, kClock);
  EXPECT_TRUE(prober.take().empty());
  prober.start(7, other.holder());
  prober.start(8, other.holder());
  std::vector<LinkProber::Found> found;
  while (found.size() < 2) {
    pollfd ready{prober.fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&ready, 1, 20'000), 1);
    for (LinkProber::Found& one : prober.take()) found.push_back(std::move(one));
  }
  EXPECT_EQ(found[0].id, 7u);
  EXPECT_EQ(found[1].id, 8u);
  EXPECT_EQ(found[1].link.error, "");
}

TEST(LinkProbe, EndsInTheMiddleOfACall) {
  const Identity self = Identity::generate("self").value();
  const auto silent = transport::listen_on("127.0.0.1", 0);  // never accepts
  ASSERT_TRUE(silent);
  WeightHolder holder{.node = {}, .endpoint = {}};
  holder.endpoint.host = "127.0.0.1";
  holder.endpoint.port = transport::local_port(silent->get());
  const Time begin = kClock.now();
  {
    LinkProber prober(self, kClock);
    for (std::uint64_t id = 0; id < 10; ++id) prober.start(id, holder);
  }
  EXPECT_LT(kClock.now() - begin, 5000ms);  // ten calls take 20 s
}

TEST(LinkProbe, ReadsWhatTheCardSays) {
  namespace fs = std::filesystem;
  const fs::path dir = fs::path(testing::TempDir()) / "conclave-cards";
  fs::remove_all(dir);
  fs::create_directories(dir / "eth0" / "device");
  fs::create_directories(dir / "wlan0" / "phy80211");
  fs::create_directories(dir / "br0");
  std::ofstream(dir / "eth0" / "mtu") << "9000\n";
  std::ofstream(dir / "eth0" / "speed") << "10000\n";
  std::ofstream(dir / "wlan0" / "speed") << "-1\n";
  std::ofstream(dir / "br0" / "speed") << "10000\n";
  EXPECT_EQ(card_of(dir, "eth0").mtu, 9000u);
  EXPECT_EQ(card_of(dir, "eth0").mbit, 10000u);
  EXPECT_FALSE(card_of(dir, "eth0").wireless);
  EXPECT_TRUE(card_of(dir, "wlan0").wireless);
  EXPECT_EQ(card_of(dir, "wlan0").mbit, 0u);
  EXPECT_EQ(card_of(dir, "br0").mbit, 0u);  // no hardware
  EXPECT_EQ(card_of(dir, "eth7").mtu, 0u);
  fs::remove_all(dir);
}

}  // namespace
}  // namespace conclave::cluster
