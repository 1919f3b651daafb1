#include "cluster/link_message.h"

#include <gtest/gtest.h>

#include <limits>

namespace conclave::cluster {
namespace {

TEST(LinkMessage, ComesBackAsItWas) {
  const LinkMeasurement link{.error = "large messages do not come through",
                             .connect_seconds = 0.01,
                             .rtt_seconds = 1e-4,
                             .rtt_slow_seconds = 2e-4,
                             .bandwidth = 1.2e9,
                             .clock_ahead_seconds = -3.5,
                             .path_mtu = 1400,
                             .interface = "eth0",
                             .interface_mtu = 1500,
                             .interface_mbit = 10000,
                             .wireless = true};
  EXPECT_EQ(from_message(to_message(link)), link);
  const MachineChecks checks{.host_name = "studio",
                             .machine_id = "0123456789abcdef",
                             .clock_synchronised = false,
                             .state_mode = 0700,
                             .key_mode = 0600,
                             .descriptors_max = 4096,
                             .memory_bytes = 1ull << 39,
                             .available_bytes = 1ull << 38,
                             .shared_memory = false,
                             .discovery = true};
  EXPECT_EQ(from_message(to_message(checks)), checks);
}

TEST(LinkMessage, WhatNoLinkHasBecomesNothing) {
  wire::pb::LinkReport report;
  report.set_rtt_seconds(std::numeric_limits<double>::quiet_NaN());
  report.set_rtt_slow_seconds(-1.0);
  report.set_bandwidth(std::numeric_limits<double>::infinity());
  report.set_clock_ahead_seconds(1e300);
  report.set_error(std::string(10'000, '\x1b'));
  const LinkMeasurement link = from_message(report);
  EXPECT_EQ(link.rtt_seconds, 0.0);
  EXPECT_EQ(link.rtt_slow_seconds, 0.0);
  EXPECT_EQ(link.bandwidth, 0.0);
  EXPECT_EQ(link.clock_ahead_seconds, 0.0);
  EXPECT_EQ(link.error, std::string(kFoundTextMax, '?'));
}

}  // namespace
}  // namespace conclave::cluster
