#include "cluster/facts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace conclave::cluster {
namespace {

TEST(Facts, AMachineSurvivesTheWire) {
  plan::Machine machine;
  machine.name = "studio";
  machine.memory_bytes = 512e9;
  machine.usable_bytes = 490e9;
  machine.peak_bandwidth = 800e9;
  machine.efficiency = 0.75;
  machine.prefill_flops = 14e12;
  machine.cache_bytes = 96e6;
  machine.gemv_bandwidth[0] = 500e9;
  machine.cache_gemv_bandwidth[1] = 700e9;
  machine.dispatch_seconds = 60e-6;
  machine.expert_seconds = 3e-6;
  machine.step_seconds = 1e-3;
  machine.unsteadiness = 0.05;
  const plan::Machine there = machine_from(to_message(machine));
  EXPECT_EQ(there.name, "studio");
  EXPECT_EQ(there.memory_bytes, 512e9);
  EXPECT_EQ(there.usable_bytes, 490e9);
  EXPECT_EQ(there.peak_bandwidth, 800e9);
  EXPECT_EQ(there.efficiency, 0.75);
  EXPECT_EQ(there.prefill_flops, 14e12);
  EXPECT_EQ(there.cache_bytes, 96e6);
  EXPECT_EQ(there.gemv_bandwidth[0], 500e9);
  EXPECT_EQ(there.cache_gemv_bandwidth[1], 700e9);
  EXPECT_EQ(there.dispatch_seconds, 60e-6);
  EXPECT_EQ(there.expert_seconds, 3e-6);
  EXPECT_EQ(there.step_seconds, 1e-3);
  EXPECT_EQ(there.unsteadiness, 0.05);
}

TEST(Facts, NonsenseFromANodeStillPlans) {
  wire::pb::MachineFacts facts;
  facts.set_name(std::string(1000, '\n'));
  facts.set_usable_bytes(std::numeric_limits<std::uint64_t>::max());
  facts.set_peak_bandwidth(std::nan(""));
  facts.set_efficiency(-3.0);
  facts.set_prefill_flops(std::numeric_limits<double>::infinity());
  facts.set_dispatch_seconds(1e300);
  facts.set_unsteadiness(-1e300);
  facts.add_gemv_bandwidth(-1.0);
  plan::Pool pool;
  pool.machines.push_back(machine_from(facts));
  const Result<void> checked = plan::check(pool);
  EXPECT_TRUE(checked) << checked.error().message;
  EXPECT_EQ(pool.machines[0].name, "node");
}

TEST(Facts, EndpointsAreChecked) {
  transport::Endpoint endpoint;
  endpoint.host = "fd00::1";
  endpoint.port = 7333;
  endpoint.fingerprint[31] = std::byte{7};
  endpoint.clear = true;
  endpoint.host_id = "a";
  const Result<transport::Endpoint> there = from_message(to_message(endpoint));
  ASSERT_TRUE(there);
  EXPECT_EQ(*there, endpoint);
  wire::pb::Endpoint message = to_message(endpoint);
  message.set_port(65536);
  EXPECT_FALSE(from_message(message));
  message = to_message(endpoint);
  message.set_fingerprint("short");
  EXPECT_FALSE(from_message(message));
}

TEST(Facts, WhatAMemberSaysIsChecked) {
  wire::pb::Hello hello;
  hello.set_bulk_port(65535);
  EXPECT_TRUE(check(hello));
  hello.set_bulk_port(65536);
  EXPECT_EQ(check(hello).error().code, ErrorCode::kCorrupt);
  hello.set_bulk_port(1);
  for (std::uint64_t model = 0; model < 5000; ++model) hello.add_models(model);
  EXPECT_EQ(check(hello).error().code, ErrorCode::kCorrupt);

  hello.clear_models();
  hello.set_host_id(std::string(1000, 'a'));
  EXPECT_EQ(check(hello).error().code, ErrorCode::kCorrupt);

  wire::pb::Report report;
  report.set_error(std::string(1000, '\n'));
  report.mutable_broken()->set_reason("\x1b[31mred \xc2\x9b");
  ASSERT_TRUE(clean(report));
  EXPECT_EQ(report.error(), std::string(kCleanTextMax, '?'));
  EXPECT_EQ(report.broken().reason(), "?[31mred ??");
  EXPECT_FALSE(report.has_data());
  wire::pb::Report wrong = report;
  wrong.mutable_data()->set_fingerprint("short");
  EXPECT_EQ(clean(wrong).error().code, ErrorCode::kCorrupt);
  wrong = report;
  wrong.mutable_data()->set_fingerprint(std::string(32, 'k'));
  EXPECT_TRUE(clean(wrong));
  wrong.mutable_data()->set_host_id(std::string(1000, 'a'));
  EXPECT_EQ(clean(wrong).error().code, ErrorCode::kCorrupt);
  for (std::uint32_t v = 0; v < 5000; ++v) report.add_held(v);
  EXPECT_EQ(clean(report).error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace conclave::cluster
