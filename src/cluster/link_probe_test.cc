// Against a server of this machine, over real connections.
#include "cluster/link_probe.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "cluster/test_giver.h"

namespace conclave::cluster {
namespace {

using transport::Identity;
using namespace std::chrono_literals;

const RealClock kClock;

bool never() { return false; }

TEST(LinkProbe, MeasuresAGoodLink) {
  const Identity self = Identity::generate("self").value();
  const Giver other(self.fingerprint());
  const LinkMeasurement link = measure_link(other.holder(NodeId{}), self, kClock, never);
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
  const Giver other(stranger.fingerprint());
  EXPECT_NE(measure_link(other.holder(NodeId{}), self, kClock, never).error, "");  // it refuses
  WeightHolder nobody = other.holder(NodeId{});
  nobody.endpoint.fingerprint = stranger.fingerprint();
  EXPECT_NE(measure_link(nobody, stranger, kClock, never).error, "");  // another answers
  nobody.endpoint.port = 1;
  const LinkMeasurement closed = measure_link(nobody, self, kClock, never);
  EXPECT_NE(closed.error, "");
  EXPECT_EQ(closed.rtt_seconds, 0.0);
}

TEST(LinkProbe, AThreadMeasuresAndTheDescriptorTells) {
  const Identity self = Identity::generate("self").value();
  const Giver other(self.fingerprint());
  LinkProber prober(self, kClock);
  EXPECT_TRUE(prober.take().empty());
  prober.start(7, other.holder(NodeId{}));
  prober.start(8, other.holder(NodeId{}));
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
