// The closed form against the tables of docs/perf-model.md 3.3, 3.5, 3.6 and 5.2, whose exchanges
// carry 16-bit activations.
#include <gtest/gtest.h>

#include <numeric>

#include "plan/plan.h"

namespace conclave::plan {
namespace {

const Catalogue& catalogue() {
  static const Catalogue parsed = [] {
    auto result = parse_catalogue(built_in_sources());
    CHECK(result);
    return std::move(*result);
  }();
  return parsed;
}

struct Case {
  const char* machine = "m3-ultra-512";
  std::size_t count = 4;
  const char* link = "tb5-rdma";
  Topology topology = Topology::kMesh;
  const char* quant = "shipped";
};

Cluster cluster_of(const Case& c) {
  Cluster cluster;
  cluster.name = "test";
  cluster.model = *find_model(catalogue(), "kimi-k2-thinking", c.quant);
  cluster.software = *find_software(catalogue(), "conclave");
  cluster.software.wire_bytes_per_element = 2.0;
  cluster.workload.context = 1;
  cluster.workload.reserve_tokens = 1;
  for (std::size_t i = 0; i < c.count; ++i) {
    cluster.pool.machines.push_back(*find_machine(catalogue(), c.machine));
    cluster.pool.machines.back().name += std::to_string(i);
  }
  cluster.pool.link = *find_link(catalogue(), c.link);
  cluster.pool.topology = c.topology;
  cluster.policy.use_all_machines = true;
  return cluster;
}

Prediction predicted(const Cluster& cluster, Strategy strategy) {
  std::vector<std::size_t> all(cluster.pool.machines.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  const Result<Placement> placement = place(cluster, strategy, all);
  CHECK(placement);
  return predict(cluster, *placement);
}

double speed(const Case& c, Strategy strategy) {
  return predicted(cluster_of(c), strategy).tokens_per_second;
}

TEST(Predict, FourM3UltraAsShipped) {
  const Case rdma;
  EXPECT_NEAR(speed(rdma, Strategy::kSlice) / 49.5, 1.0, 0.04);
  EXPECT_NEAR(speed(rdma, Strategy::kSliceRa) / 31.8, 1.0, 0.04);
  EXPECT_NEAR(speed(rdma, Strategy::kPipeline) / 18.5, 1.0, 0.04);
  const Case ethernet25{.link = "25gbe", .topology = Topology::kSwitch};
  EXPECT_NEAR(speed(ethernet25, Strategy::kSlice) / 39.2, 1.0, 0.04);
  const Case ethernet10{.link = "10gbe", .topology = Topology::kSwitch};
  EXPECT_NEAR(speed(ethernet10, Strategy::kSlice) / 32.7, 1.0, 0.04);
  EXPECT_NEAR(speed(ethernet10, Strategy::kSliceRa) / 27.2, 1.0, 0.04);
}

TEST(Predict, FourM3UltraWithFewerBits) {
  EXPECT_NEAR(speed({.quant = "all4"}, Strategy::kSlice) / 76.9, 1.0, 0.04);
  EXPECT_NEAR(speed({.quant = "i4i8"}, Strategy::kSlice) / 64.5, 1.0, 0.04);
  EXPECT_NEAR(speed({.quant = "all4"}, Strategy::kPipeline) / 32.0, 1.0, 0.06);
}

TEST(Predict, SixM2UltraOnThunderbolt4) {
  const Case six{.machine = "m2-ultra-192",
                 .count = 6,
                 .link = "tb4-tcp",
                 .topology = Topology::kSwitch,
                 .quant = "int8-pure"};
  EXPECT_NEAR(speed(six, Strategy::kSlice) / 27.5, 1.0, 0.06);
  // The table takes no notice of memory; attention on every machine needs a little more of it.
  Cluster larger = cluster_of(six);
  for (Machine& machine : larger.pool.machines) machine.usable_bytes = machine.memory_bytes;
  EXPECT_NEAR(predicted(larger, Strategy::kSliceRa).tokens_per_second / 30.7, 1.0, 0.08);
}

TEST(Predict, Roofline) {
  const Prediction prediction = predicted(cluster_of({}), Strategy::kSlice);
  EXPECT_NEAR(prediction.roofline_tokens_per_second, 99.0, 1.0);
  EXPECT_EQ(prediction.rounds, 123u);
}

TEST(Predict, BatchesReadMoreExpertsAndShareTheRest) {
  const std::pair<std::size_t, double> rows[] = {{4, 132}, {32, 250}, {64, 335}};
  for (const auto& [batch, tokens_per_second] : rows) {
    Cluster cluster = cluster_of({.quant = "i4i8"});
    cluster.workload.batch = batch;
    cluster.workload.context = 1000;
    EXPECT_NEAR(predicted(cluster, Strategy::kSlice).tokens_per_second / tokens_per_second, 1.0,
                0.1)
        << batch;
  }
  Cluster pipeline = cluster_of({.quant = "i4i8"});
  pipeline.workload.batch = 4;
  pipeline.workload.context = 1000;
  EXPECT_NEAR(predicted(pipeline, Strategy::kPipeline).tokens_per_second / 102, 1.0, 0.1);
}

TEST(Predict, SpeculationVerifiesSeveralTokensInOneStep) {
  Cluster cluster = cluster_of({});
  cluster.workload.speculation = {.draft_tokens = 3, .accepted = 2.35};
  EXPECT_NEAR(predicted(cluster, Strategy::kSlice).tokens_per_second / 68.0, 1.0, 0.08);
  cluster.workload.speculation = {.draft_tokens = 1, .accepted = 1.65};
  EXPECT_NEAR(predicted(cluster, Strategy::kSlice).tokens_per_second / 65.0, 1.0, 0.08);
}

TEST(Predict, PromptsAreBoundByArithmetic) {
  Cluster cluster = cluster_of({});
  cluster.workload.prompt = 8192;
  // 226 tokens per second and machine, less what attention over the prompt itself costs.
  const Prediction mesh = predicted(cluster, Strategy::kSlice);
  EXPECT_LT(mesh.prefill_tokens_per_second, 902.0);
  EXPECT_GT(mesh.prefill_tokens_per_second, 680.0);
  cluster.software.overlaps_prefill = false;
  EXPECT_LT(predicted(cluster, Strategy::kSlice).prefill_tokens_per_second,
            0.94 * mesh.prefill_tokens_per_second);
}

TEST(Predict, CostOfAToken) {
  const Prediction prediction = predicted(cluster_of({}), Strategy::kSlice);
  EXPECT_NEAR(prediction.watts, 1000.0, 100.0);
  EXPECT_NEAR(prediction.joules_per_token, 20.0, 2.0);
  EXPECT_NEAR(prediction.usd_per_million_tokens, 9.0, 0.9);
}

// The mean of the largest of three normal variables is 0.846 standard deviations above theirs.
TEST(Predict, RanksWaitForWhoeverIsSlowForAMoment) {
  Cluster cluster = cluster_of({.count = 3});
  const TimeSplit steady = predicted(cluster, Strategy::kSlice).split;
  for (Machine& machine : cluster.pool.machines) machine.unsteadiness = 0.1;
  const TimeSplit unsteady = predicted(cluster, Strategy::kSlice).split;
  const double work = steady.memory + steady.compute + steady.kv;
  EXPECT_NEAR(unsteady.imbalance - steady.imbalance, 0.0846 * work, 0.005 * work);
  EXPECT_DOUBLE_EQ(unsteady.memory, steady.memory);
}

TEST(Predict, SlowTokensAreThoseThatWaitForJitter) {
  Cluster cluster = cluster_of({});
  const Prediction usual = predicted(cluster, Strategy::kSlice);
  EXPECT_LT(usual.slow_tokens_per_second, usual.tokens_per_second);
  cluster.pool.link->jitter_seconds = 0.0;
  const Prediction steady = predicted(cluster, Strategy::kSlice);
  EXPECT_NEAR(steady.slow_tokens_per_second, steady.tokens_per_second, 1e-9);
}

}  // namespace
}  // namespace conclave::plan
