#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "plan/explain_changes.h"
#include "plan/plan.h"

namespace conclave::plan {
namespace {

constexpr double kSecondsPerUs = 1e-6;

Architecture kimi() {
  Architecture a;
  a.name = "Kimi K2";
  a.n_layers = 61;
  a.n_dense_layers = 1;
  a.hidden_size = 7168;
  a.vocab_size = 163840;
  a.n_heads = 64;
  a.q_lora_rank = 1536;
  a.kv_lora_rank = 512;
  a.qk_nope_head_dim = 128;
  a.qk_rope_head_dim = 64;
  a.v_head_dim = 128;
  a.n_experts = 384;
  a.experts_per_token = 8;
  a.n_shared_experts = 1;
  a.moe_intermediate_size = 2048;
  a.intermediate_size = 18432;
  return a;
}

Link link_of(Transport transport, double latency_us, double bandwidth) {
  Link link;
  link.name = "cable";
  link.transport = transport;
  link.latency_seconds = latency_us * kSecondsPerUs;
  link.bandwidth = bandwidth;
  return link;
}

// Four machines of 512 GB and 819 GB/s, INT4 experts and BF16 for the rest: docs/perf-model.md 3.3.
Cluster four_studios(double dispatch_us, Link link) {
  Cluster cluster;
  cluster.name = "four";
  cluster.model.architecture = kimi();
  cluster.model.quant.name = "shipped";
  cluster.model.quant.of(Part::kRouted) = {Format::kInt4, 0.5625};
  cluster.software.name = "test";
  for (auto& of_device : cluster.software.dispatch_seconds) {
    of_device.fill(dispatch_us * kSecondsPerUs);
  }
  cluster.software.exchange[static_cast<std::size_t>(Transport::kTcp)].overhead_seconds = 25e-6;
  cluster.software.exchange[static_cast<std::size_t>(Transport::kRdma)].overhead_seconds = 4e-6;
  cluster.pool.topology = Topology::kMesh;
  cluster.pool.link = std::move(link);
  for (int i = 1; i <= 4; ++i) {
    Machine machine;
    machine.name = fmt::format("studio-{}", i);
    machine.device = DeviceClass::kApple;
    machine.memory_bytes = 512e9;
    machine.usable_bytes = 490e9;
    machine.peak_bandwidth = 819e9;
    machine.prefill_flops = 14.3e12;
    machine.idle_watts = 9;
    machine.load_watts = 250;
    machine.price_usd = 9500;
    cluster.pool.machines.push_back(machine);
  }
  return cluster;
}
Cluster rdma_studios(double dispatch_us) {
  return four_studios(dispatch_us, link_of(Transport::kRdma, 6, 5e9));
}

Plan plan_of(const Cluster& cluster) {
  Result<Plan> plan = make_plan(cluster);
  EXPECT_TRUE(plan) << (plan ? "" : plan.error().message);
  return plan ? *plan : Plan{};
}

// One step of 40 ms with all of the time in one cause, and a little in another.
Prediction prediction_with(double TimeSplit::*cause) {
  Prediction prediction;
  prediction.split.*cause = 30e-3;
  prediction.split.*(cause == &TimeSplit::memory ? &TimeSplit::kv : &TimeSplit::memory) = 10e-3;
  prediction.step_seconds = 40e-3;
  prediction.tokens_per_second = 25.0;
  prediction.exchange_seconds = 180e-6;
  prediction.rounds = 100;
  return prediction;
}

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

const Improvement* improvement_with(const Explanation& explanation, std::string_view words) {
  const auto found = std::ranges::find_if(
      explanation.improvements, [words](const Improvement& i) { return has(i.change, words); });
  return found == explanation.improvements.end() ? nullptr : &*found;
}

TEST(Explain, NamesTheLargestCauseWithItsNumbers) {
  const Cluster cluster = rdma_studios(60);
  const Placement placement = plan_of(cluster).placement;
  const auto constraint = [&](double TimeSplit::*cause) {
    return explain(cluster, placement, prediction_with(cause)).constraint;
  };
  EXPECT_EQ(constraint(&TimeSplit::memory),
            "reading weights takes 75 % of each token (30.0 of 40.0 ms); then attention over the "
            "cache 25 % (10.0 ms: 512 tokens of context)");
  EXPECT_EQ(constraint(&TimeSplit::exchange),
            "waiting for exchanges takes 75 % of each token (30.0 of 40.0 ms: 100 rounds of 300 "
            "us); then reading weights 25 % (10.0 ms)");
  EXPECT_TRUE(has(constraint(&TimeSplit::dispatch), "kernel dispatch takes 75 %"));
  EXPECT_TRUE(has(constraint(&TimeSplit::dispatch), "61 layers of 492 us"));
  EXPECT_TRUE(has(constraint(&TimeSplit::kv), "attention over the cache takes 75 %"));
  EXPECT_TRUE(has(constraint(&TimeSplit::compute), "arithmetic takes 75 %"));
  EXPECT_TRUE(has(constraint(&TimeSplit::imbalance), "waiting for the slowest machine takes"));
  EXPECT_TRUE(has(constraint(&TimeSplit::draft), "the draft model takes 75 %"));
}

TEST(Explain, SeveralTokensAStepAreCalledAStep) {
  Cluster cluster = rdma_studios(60);
  cluster.workload.batch = 8;
  const Plan plan = plan_of(cluster);
  EXPECT_TRUE(has(plan.explanation.constraint, "of each step"));
  EXPECT_EQ(improvement_with(plan.explanation, "users at once"), nullptr);
}

TEST(Explain, SlowDispatchIsBlamedAndHalvingItOffered) {
  const Plan plan = plan_of(rdma_studios(600));
  EXPECT_TRUE(plan.explanation.constraint.starts_with("kernel dispatch takes"))
      << plan.explanation.constraint;
  const Improvement* half = improvement_with(plan.explanation, "half the kernel dispatch cost");
  ASSERT_NE(half, nullptr);
  EXPECT_TRUE(has(half->change, "300 us a layer in place of 600 us")) << half->change;
  EXPECT_GT(half->tokens_per_second, 1.3 * plan.prediction.tokens_per_second);
}

TEST(Explain, SlowLinksAreBlamedAndBetterOnesOffered) {
  Cluster cluster = four_studios(60, link_of(Transport::kTcp, 2000, 2e9));
  cluster.policy.use_all_machines = true;
  cluster.policy.strategy = Strategy::kSlice;
  const Plan plan = plan_of(cluster);
  EXPECT_TRUE(plan.explanation.constraint.starts_with("waiting for exchanges takes"))
      << plan.explanation.constraint;
  EXPECT_NE(improvement_with(plan.explanation, "exchanges (10 GbE)"), nullptr);
  const Improvement* rdma = improvement_with(plan.explanation, "exchanges (RDMA)");
  ASSERT_NE(rdma, nullptr);
  EXPECT_GT(rdma->tokens_per_second, 4.0 * plan.prediction.tokens_per_second);
}

TEST(Explain, FastLinksAreLeftAlone) {
  const Plan plan = plan_of(four_studios(60, link_of(Transport::kNvlink, 1, 450e9)));
  EXPECT_EQ(improvement_with(plan.explanation, "a link with"), nullptr);
}

TEST(Explain, ImprovementsGainAndAreBestFirst) {
  for (const double dispatch_us : {10.0, 60.0, 260.0}) {
    const Plan plan = plan_of(rdma_studios(dispatch_us));
    const std::vector<Improvement>& improvements = plan.explanation.improvements;
    EXPECT_FALSE(improvements.empty());
    EXPECT_LE(improvements.size(), kImprovementsMax);
    // More users at once come last: they help nobody's single answer.
    EXPECT_NE(improvements.back().change.find("users at once"), std::string::npos);
    EXPECT_TRUE(std::ranges::is_sorted(improvements.begin(), improvements.end() - 1,
                                       std::ranges::greater{}, &Improvement::tokens_per_second));
    for (const Improvement& improvement : improvements) {
      EXPECT_GE(improvement.tokens_per_second, kGainMin * plan.prediction.tokens_per_second);
    }
  }
}

TEST(Explain, FewerBitsAreOfferedOnlyWhereThereAreSixteen) {
  Cluster cluster = rdma_studios(10);
  const Plan plan = plan_of(cluster);
  const Improvement* four =
      improvement_with(plan.explanation, "4-bit weights where there are 16 bits");
  ASSERT_NE(four, nullptr);
  EXPECT_TRUE(has(four->change, name_of(Part::kShared)));
  EXPECT_FALSE(has(four->change, name_of(Part::kRouted)));  // 4 bits already
  for (PartFormat& part : cluster.model.quant.parts) part = {Format::kInt4, 0.5625};
  EXPECT_EQ(improvement_with(plan_of(cluster).explanation, "bit weights"), nullptr);
}

TEST(Explain, ComparesWithTheNextStrategyAndTheCrossover) {
  const Plan plan = plan_of(rdma_studios(60));
  ASSERT_EQ(plan.placement.strategy, Strategy::kSlice);
  const std::string& reason = plan.explanation.strategy_reason;
  EXPECT_TRUE(reason.starts_with("slice: ")) << reason;
  EXPECT_TRUE(has(reason, "tok/s against")) << reason;
  EXPECT_TRUE(has(reason, "slice-ra is faster when an exchange takes longer than")) << reason;

  const Plan slow = plan_of(four_studios(60, link_of(Transport::kTcp, 260, 2.3e9)));
  ASSERT_EQ(slow.placement.strategy, Strategy::kSliceRa);
  EXPECT_TRUE(has(slow.explanation.strategy_reason, "slice is faster when an exchange takes less"))
      << slow.explanation.strategy_reason;
}

TEST(Explain, AWantedStrategyIsComparedToo) {
  Cluster cluster = rdma_studios(60);
  cluster.policy.strategy = Strategy::kPipeline;
  cluster.policy.use_all_machines = true;
  const std::string reason = plan_of(cluster).explanation.strategy_reason;
  EXPECT_TRUE(reason.starts_with("pipeline, as asked for: ")) << reason;
  EXPECT_TRUE(has(reason, "with slice")) << reason;
}

TEST(Explain, OneMachineHasNothingToExchange) {
  Cluster cluster = rdma_studios(60);
  cluster.pool.machines.resize(1);
  cluster.pool.machines[0].memory_bytes = 1000e9;
  cluster.pool.machines[0].usable_bytes = 900e9;
  cluster.pool.link.reset();
  const Plan plan = plan_of(cluster);
  EXPECT_TRUE(has(plan.explanation.strategy_reason, "one machine"));
  EXPECT_EQ(improvement_with(plan.explanation, "a link with"), nullptr);
  EXPECT_NE(improvement_with(plan.explanation, "one more machine like studio-1, joined by 10 GbE"),
            nullptr);
}

TEST(Explain, MachinesThatAreLeftOutAreNamed) {
  Cluster cluster = four_studios(60, link_of(Transport::kTcp, 3000, 1e9));
  for (Machine& machine : cluster.pool.machines) {
    machine.memory_bytes = 1000e9;
    machine.usable_bytes = 900e9;
  }
  const Plan plan = plan_of(cluster);
  ASSERT_LT(plan.placement.ranks.size(), 4U);
  EXPECT_TRUE(has(plan.explanation.constraint, "of 4 machines are left out: with "))
      << plan.explanation.constraint;
}

TEST(Explain, AMeasurementBelowHalfBlamesTheSoftware) {
  Cluster cluster = rdma_studios(60);
  const double predicted = plan_of(cluster).prediction.tokens_per_second;
  cluster.measured_tokens_per_second = 0.1 * predicted;
  const Explanation slow = plan_of(cluster).explanation;
  EXPECT_TRUE(slow.software_bound);
  EXPECT_NEAR(slow.measured_share.value_or(0.0), 0.1, 1e-9);
  EXPECT_TRUE(slow.constraint.starts_with("the software, not the machines: measured "));
  EXPECT_TRUE(has(slow.constraint, "is 10 % of what they can do")) << slow.constraint;
  cluster.measured_tokens_per_second = 0.9 * predicted;
  const Explanation good = plan_of(cluster).explanation;
  EXPECT_FALSE(good.software_bound);
  EXPECT_FALSE(has(good.constraint, "the software"));
  EXPECT_FALSE(plan_of(rdma_studios(60)).explanation.measured_share.has_value());
}

TEST(Explain, LargePoolsKeepTheirPlacement) {
  Cluster cluster = rdma_studios(600);
  const Machine machine = cluster.pool.machines[0];
  while (cluster.pool.machines.size() <= kExploredMachinesMax) {
    cluster.pool.machines.push_back(machine);
    cluster.pool.machines.back().name = fmt::format("studio-{}", cluster.pool.machines.size());
  }
  const Explanation explanation = plan_of(cluster).explanation;
  EXPECT_EQ(improvement_with(explanation, "one more machine"), nullptr);
  EXPECT_NE(improvement_with(explanation, "half the kernel dispatch cost"), nullptr);
}

TEST(Explain, DurationsReadWell) {
  EXPECT_EQ(duration_text(1.5e-6), "1.5 us");
  EXPECT_EQ(duration_text(180e-6), "180 us");
  EXPECT_EQ(duration_text(1.44e-3), "1.4 ms");
  EXPECT_EQ(duration_text(0.25), "250 ms");
  EXPECT_EQ(duration_text(2.0), "2.0 s");
}

}  // namespace
}  // namespace conclave::plan
