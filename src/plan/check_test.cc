#include "plan/check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "plan/pool.h"

namespace conclave::plan {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Machine machine(std::string name) {
  Machine m;
  m.name = std::move(name);
  m.memory_bytes = 512e9;
  m.usable_bytes = 490e9;
  m.peak_bandwidth = 819e9;
  m.prefill_flops = 14e12;
  return m;
}

Link link() {
  Link l;
  l.name = "tb5-rdma";
  l.latency_seconds = 6e-6;
  l.bandwidth = 5e9;
  return l;
}

Pool pool_of(std::size_t n) {
  Pool pool;
  for (std::size_t i = 0; i < n; ++i) pool.machines.push_back(machine("m" + std::to_string(i)));
  return pool;
}

Cluster cluster() {
  Cluster c;
  c.name = "test";
  c.pool = pool_of(2);
  c.pool.link = link();
  Architecture& a = c.model.architecture;
  a.name = "toy";
  a.n_layers = 4;
  a.n_dense_layers = 1;
  a.hidden_size = 256;
  a.vocab_size = 1024;
  a.n_heads = 4;
  a.q_lora_rank = 64;
  a.kv_lora_rank = 64;
  a.qk_nope_head_dim = 32;
  a.qk_rope_head_dim = 16;
  a.v_head_dim = 32;
  a.n_experts = 16;
  a.experts_per_token = 2;
  a.n_shared_experts = 1;
  a.moe_intermediate_size = 128;
  a.intermediate_size = 512;
  return c;
}

template <class T>
std::string error_of(const T& value) {
  const Result<void> checked = check(value);
  return checked ? "" : checked.error().message;
}

std::string error_after(const std::function<void(Cluster&)>& change) {
  Cluster c = cluster();
  change(c);
  return error_of(c);
}

TEST(CheckPool, OneMachineNeedsNoLink) { EXPECT_EQ(error_of(pool_of(1)), ""); }

TEST(CheckPool, NoMachines) { EXPECT_EQ(error_of(Pool{}), "no machines"); }

TEST(CheckPool, ValuesOfMachines) {
  const auto changed = [](double Machine::*member, double value) {
    Pool pool = pool_of(1);
    pool.machines[0].*member = value;
    return error_of(pool);
  };
  EXPECT_EQ(changed(&Machine::memory_bytes, -1.0),
            "machine \"m0\": memory_bytes is -1, expected 1 to 1e+18");
  for (const double bad : {0.0, -5.0, kNan, kInfinity}) {
    EXPECT_NE(changed(&Machine::memory_bytes, bad), "") << bad;
    EXPECT_NE(changed(&Machine::usable_bytes, bad), "") << bad;
    EXPECT_NE(changed(&Machine::peak_bandwidth, bad), "") << bad;
    EXPECT_NE(changed(&Machine::efficiency, bad), "") << bad;
    EXPECT_NE(changed(&Machine::prefill_flops, bad), "") << bad;
  }
  for (const double bad : {-5.0, kNan, kInfinity}) {
    EXPECT_NE(changed(&Machine::cache_bytes, bad), "") << bad;
    EXPECT_NE(changed(&Machine::idle_watts, bad), "") << bad;
    EXPECT_NE(changed(&Machine::load_watts, bad), "") << bad;
    EXPECT_NE(changed(&Machine::price_usd, bad), "") << bad;
    EXPECT_NE(changed(&Machine::dispatch_seconds, bad), "") << bad;
    EXPECT_NE(changed(&Machine::step_seconds, bad), "") << bad;
  }
  EXPECT_NE(changed(&Machine::efficiency, 1.1), "");
  EXPECT_EQ(changed(&Machine::usable_bytes, 600e9),
            "machine \"m0\": usable memory (600 GB) is more than memory (512 GB)");
}

TEST(CheckPool, ProbedSpeeds) {
  Pool pool = pool_of(1);
  pool.machines[0].gemv_bandwidth[2] = kNan;
  EXPECT_NE(error_of(pool), "");
  pool.machines[0].gemv_bandwidth[2] = 100e9;
  pool.machines[0].cache_gemv_bandwidth[0] = -1.0;
  EXPECT_NE(error_of(pool), "");
}

TEST(CheckPool, NamesAreUniqueAndThere) {
  Pool pool = pool_of(2);
  pool.link = link();
  pool.machines[1].name = "m0";
  EXPECT_NE(error_of(pool).find("two machines have the name \"m0\""), std::string::npos);
  pool.machines[1].name = "";
  EXPECT_NE(error_of(pool), "");
}

TEST(CheckPool, ValuesOfLinks) {
  for (double Link::*member : {&Link::latency_seconds, &Link::jitter_seconds, &Link::bandwidth}) {
    for (const double bad : {-1.0, kNan, kInfinity}) {
      Pool pool = pool_of(2);
      pool.link = link();
      (*pool.link).*member = bad;
      EXPECT_NE(error_of(pool), "");
      pool.link = link();
      pool.pairs = {{0, 1, link()}};
      pool.pairs[0].link.*member = bad;
      EXPECT_NE(error_of(pool), "");
    }
  }
  Pool pool = pool_of(2);
  pool.link = link();
  pool.link->bandwidth = 0.0;
  EXPECT_NE(error_of(pool), "");
}

TEST(CheckPool, PairsNameTwoMachinesThatExistOnce) {
  Pool pool = pool_of(3);
  pool.link = link();
  pool.pairs = {{0, 3, link()}};
  EXPECT_EQ(error_of(pool), "a pair names machine 3, but the last one is 2");
  pool.pairs = {{1, 1, link()}};
  EXPECT_EQ(error_of(pool), "a pair joins machine \"m1\" to itself");
  pool.pairs = {{1, 2, link()}, {2, 1, link()}};
  EXPECT_EQ(error_of(pool), "two pairs join \"m1\" and \"m2\"");
  pool.pairs = {{1, 2, link()}, {0, 1, link()}};
  EXPECT_EQ(error_of(pool), "");
}

TEST(CheckPool, MachinesThatNoChainJoins) {
  Pool pool = pool_of(4);
  pool.pairs = {{0, 1, link()}, {2, 3, link()}};
  EXPECT_NE(error_of(pool).find("no chain of links joins machines \"m0\" and \"m2\""),
            std::string::npos);
  pool.pairs.push_back({1, 2, link()});
  EXPECT_EQ(error_of(pool), "");
  pool.pairs.clear();
  EXPECT_NE(error_of(pool), "");
  pool.link = link();
  EXPECT_EQ(error_of(pool), "");
}

// A square of the count would be 1e10 steps here, beyond the test's time limit.
TEST(CheckPool, AHundredThousandMachinesAreChecked) {
  constexpr std::size_t kMachines = 100'000;
  Pool pool = pool_of(kMachines);
  for (std::size_t i = 0; i + 1 < kMachines; ++i) pool.pairs.push_back({i, i + 1, link()});
  EXPECT_EQ(error_of(pool), "");
  pool.machines.push_back(machine("one more"));
  EXPECT_EQ(error_of(pool), "100001 machines, at most 100000");
}

TEST(CheckCluster, AGoodOne) { EXPECT_EQ(error_of(cluster()), ""); }

TEST(CheckCluster, ItsParts) {
  EXPECT_NE(error_after([](Cluster& c) { c.pool.machines.clear(); }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.model.architecture.n_experts = 0; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.model.quant.kv_bytes_per_element = 0.0; }), "");
  EXPECT_NE(
      error_after([](Cluster& c) { c.model.quant.of(Part::kHead).bytes_per_parameter = kNan; }),
      "");
  EXPECT_NE(error_after([](Cluster& c) { c.measured_tokens_per_second = 0.0; }), "");
}

TEST(CheckCluster, Software) {
  EXPECT_NE(error_after([](Cluster& c) { c.software.strategies.fill(false); }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.software.hop_seconds = -1.0; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.software.wire_bytes_per_element = 0.0; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.software.efficiency[3] = 0.0; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.software.dispatch_seconds[0][1] = kNan; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.software.exchange[2].overhead_seconds = -1.0; }), "");
  EXPECT_EQ(error_after([](Cluster& c) {
              c.software.name = "x";
              c.software.strategies = {true, false, true, true};
              c.policy.strategy = Strategy::kSliceRa;
            }),
            "software \"x\" has no strategy slice-ra");
}

TEST(CheckCluster, Workload) {
  EXPECT_EQ(error_after([](Cluster& c) { c.workload.batch = 0; }),
            "workload: batch is 0, expected 1 to 1e+06");
  EXPECT_EQ(error_after([](Cluster& c) { c.workload.context = 0; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.workload.prompt = 0; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.workload.zipf = -0.1; }), "");
  EXPECT_EQ(error_after([](Cluster& c) { c.workload.batch = 32; }),
            "workload: reserve is 8192 tokens, but batch * context is 16384");
  EXPECT_NE(error_after([](Cluster& c) { c.workload.speculation.accepted = 1.5; }), "");
  EXPECT_EQ(error_after([](Cluster& c) { c.workload.speculation = {3, 3.2, 0.3, 1e-3}; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.workload.speculation = {3, 4.2, 0.3, 1e-3}; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.workload.speculation = {3, 3.2, 1.3, 1e-3}; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.workload.speculation = {3, 3.2, 0.3, kNan}; }), "");
}

TEST(CheckCluster, Policy) {
  EXPECT_NE(error_after([](Cluster& c) { c.policy.expert_copies = 0; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.policy.cover_losses = 2; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.policy.lifetime_years = 0.0; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.policy.utilisation = 1.5; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.policy.utilisation = 0.0; }), "");
  EXPECT_NE(error_after([](Cluster& c) { c.policy.usd_per_kwh = -0.1; }), "");
}

TEST(PoolNames, AllHaveOne) {
  EXPECT_EQ(name_of(DeviceClass::kRocm), "rocm");
  EXPECT_EQ(name_of(Transport::kSharedMemory), "shared-memory");
}

}  // namespace
}  // namespace conclave::plan
