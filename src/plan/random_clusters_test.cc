// What must hold for any cluster, on thousands of random ones. docs/perf-model.md 5.3.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>

#include "base/rng.h"
#include "plan/memory.h"
#include "plan/phases.h"
#include "plan/plan.h"

namespace conclave::plan {
namespace {

constexpr std::size_t kClusters = 1000;  // for each of the properties
constexpr double kRounding = 1.0 + 1e-9;

class RandomCluster {
 public:
  explicit RandomCluster(std::uint64_t seed) : random_(seed) {}

  // Large batches, skewed experts, speculation and caches as well: placed soundly, but there the
  // sampled balance of experts and what a cache holds move in steps, by a percent or two.
  Cluster next_of_any_kind(std::size_t machines_max) {
    Cluster cluster = next(machines_max);
    cluster.workload.batch = std::size_t{1} << random_.next() % 7;
    cluster.workload.reserve_tokens = cluster.workload.context * cluster.workload.batch;
    if (random_.next() % 2 == 0) cluster.workload.zipf = between(0.2, 1.2);
    if (random_.next() % 2 == 0) cluster.workload.speculation = {3, 2.35, 0.2, 1e-3};
    for (Machine& machine : cluster.pool.machines) {
      machine.cache_bytes = machine.memory_bytes * between(0.01, 1.0);
      machine.cache_gemv_bandwidth.fill(machine.peak_bandwidth * between(1.0, 3.0));
    }
    return cluster;
  }

  Cluster next(std::size_t machines_max) {
    Cluster cluster;
    cluster.name = "random";
    cluster.model = model();
    cluster.software = software();
    const std::size_t n = 1 + random_.next() % machines_max;
    const double bytes = stored_bytes(cluster.model);
    for (std::size_t i = 0; i < n; ++i) {
      Machine machine;
      machine.name = "m" + std::to_string(i);
      machine.device = static_cast<DeviceClass>(random_.next() % kDeviceClasses);
      machine.memory_bytes = bytes * between(0.1, 3.0);
      machine.usable_bytes = machine.memory_bytes * between(0.8, 1.0);
      machine.peak_bandwidth = between(50e9, 3000e9);
      machine.efficiency = between(0.4, 0.9);
      machine.prefill_flops = between(1e12, 1e14);
      machine.idle_watts = 10.0;
      machine.load_watts = 200.0;
      machine.price_usd = 1000.0;
      cluster.pool.machines.push_back(machine);
    }
    cluster.pool.link = link();
    cluster.pool.topology = static_cast<Topology>(random_.next() % 3);
    if (n > 1 && random_.next() % 4 == 0) cluster.pool.pairs.push_back({0, 1, link()});
    cluster.workload.batch = std::size_t{1} << random_.next() % 4;
    cluster.workload.context = 1 + random_.next() % 4000;
    cluster.workload.reserve_tokens = cluster.workload.context * cluster.workload.batch;
    cluster.workload.prompt = 1 + random_.next() % 4000;
    return cluster;
  }

 private:
  double between(double low, double high) { return low * std::pow(high / low, random_.uniform()); }

  Model model() {
    Architecture a;
    a.name = "random";
    a.attention = random_.next() % 2 == 0 ? AttentionKind::kMla : AttentionKind::kGqa;
    a.n_layers = 4 + random_.next() % 60;
    a.n_dense_layers = random_.next() % 3;
    a.hidden_size = 256 * (1 + random_.next() % 28);
    a.vocab_size = 1024 * (8 + random_.next() % 24);
    a.n_heads = 8 * (1 + random_.next() % 8);
    a.q_lora_rank = random_.next() % 2 == 0 ? 0 : 512;
    a.kv_lora_rank = 512;
    a.qk_nope_head_dim = 128;
    a.qk_rope_head_dim = 64;
    a.v_head_dim = 128;
    a.n_kv_heads = std::size_t{1} << random_.next() % 4;
    a.head_dim = 128;
    a.n_experts = 8 * (1 + random_.next() % 48);
    a.experts_per_token = 1 + random_.next() % 8;
    a.n_shared_experts = random_.next() % 3;
    a.moe_intermediate_size = 128 * (1 + random_.next() % 16);
    a.intermediate_size = 128 * (8 + random_.next() % 100);
    Model model;
    model.architecture = a;
    const PartFormat formats[] = {
        {Format::kInt4, 0.5625}, {Format::kInt8, 1.0625}, {Format::kBf16, 2.0}};
    for (PartFormat& part : model.quant.parts) part = formats[1 + random_.next() % 2];
    model.quant.of(Part::kRouted) = formats[random_.next() % 3];
    return model;
  }

  Software software() {
    Software software;
    software.name = "random";
    for (auto& by_kind : software.dispatch_seconds) by_kind = {between(1e-5, 3e-4), 1e-4};
    for (ExchangeCost& cost : software.exchange) {
      cost.overhead_seconds = between(1e-6, 5e-4);
      cost.per_peer_seconds = between(1e-7, 1e-5);
    }
    software.hop_seconds = between(1e-5, 5e-3);
    software.splits_head = random_.next() % 4 != 0;
    return software;
  }

  Link link() {
    return {.name = "random",
            .title = "random",
            .transport = static_cast<Transport>(random_.next() % kTransports),
            .latency_seconds = between(1e-6, 1e-3),
            .jitter_seconds = between(1e-6, 1e-4),
            .bandwidth = between(1e8, 1e11)};
  }

  SplitMix random_;
};

double speed(const Cluster& cluster) {
  const Result<Placement> placement = best_placement(cluster);
  return placement ? predict(cluster, *placement).tokens_per_second : 0.0;
}

void expect_sound(const Cluster& cluster, const Placement& placement) {
  double shares = 0.0;
  for (const Rank& rank : placement.ranks) {
    const Machine& machine = cluster.pool.machines[rank.machine];
    EXPECT_LE(rank.weight_bytes + rank.kv_bytes + rank.backup_bytes,
              machine.usable_bytes * kRounding);
    EXPECT_GE(rank.free_bytes, 0.0);
    shares += rank.share;
  }
  EXPECT_NEAR(shares, 1.0, 1e-9);
  const Architecture& a = cluster.model.architecture;
  std::size_t heads = 0;
  std::size_t units = 0;
  std::size_t vocab = 0;
  std::size_t experts = 0;
  std::size_t layers = 0;
  for (const Rank& rank : placement.ranks) {
    heads += rank.n_heads;
    units += rank.expert_units;
    vocab += rank.vocab_units;
    experts += rank.n_experts;
    EXPECT_EQ(rank.n_layers == 0 ? 0 : rank.first_layer, rank.n_layers == 0 ? 0 : layers);
    layers += rank.n_layers;
  }
  if (placement.strategy == Strategy::kPipeline) {
    EXPECT_EQ(layers, a.n_layers);
  } else {
    EXPECT_EQ(units, expert_units(a));
    if (!placement.attention_replicated) {
      EXPECT_EQ(heads, a.n_heads);
    }
  }
  if (placement.strategy == Strategy::kExpert) {
    EXPECT_EQ(experts, a.n_experts * placement.expert_copies);
  }
  if (cluster.software.splits_head) {
    EXPECT_EQ(vocab, vocab_units(a));
  }
}

TEST(RandomClusters, MemoryIsNeverOvercommittedAndSharesSumToOne) {
  RandomCluster random(1);
  std::size_t placed = 0;
  for (std::size_t i = 0; i < kClusters; ++i) {
    SCOPED_TRACE(i);
    const Cluster cluster = i % 8 == 0 ? random.next_of_any_kind(6) : random.next(6);
    std::vector<std::size_t> all(cluster.pool.machines.size());
    for (std::size_t m = 0; m < all.size(); ++m) all[m] = m;
    for (std::size_t s = 0; s < kStrategies; ++s) {
      const Result<Placement> placement = place(cluster, static_cast<Strategy>(s), all);
      if (!placement) {
        EXPECT_EQ(placement.error().code, ErrorCode::kExhausted);
        EXPECT_EQ(placement.error().message.find('\n'), std::string::npos);
        continue;
      }
      expect_sound(cluster, *placement);
      const Prediction prediction = predict(cluster, *placement);
      EXPECT_TRUE(std::isfinite(prediction.tokens_per_second));
      EXPECT_NEAR(prediction.split.total(), prediction.step_seconds,
                  1e-9 * prediction.step_seconds);
      EXPECT_GE(prediction.split.imbalance, -1e-12);
      EXPECT_LE(prediction.tokens_per_second, prediction.roofline_tokens_per_second * kRounding);
      ++placed;
    }
  }
  EXPECT_GT(placed, kClusters);  // else the clusters are too small to say anything
}

TEST(RandomClusters, MoreBandwidthIsNeverSlower) {
  RandomCluster random(2);
  for (std::size_t i = 0; i < kClusters; ++i) {
    SCOPED_TRACE(i);
    Cluster cluster = random.next(4);
    const double before = speed(cluster);
    Machine& machine = cluster.pool.machines[i % cluster.pool.machines.size()];
    machine.peak_bandwidth *= 1.0 + 0.01 * static_cast<double>(1 + i % 200);
    EXPECT_GE(speed(cluster) * kRounding, before);
  }
}

TEST(RandomClusters, ABetterLinkIsNeverSlower) {
  RandomCluster random(3);
  for (std::size_t i = 0; i < kClusters; ++i) {
    SCOPED_TRACE(i);
    Cluster cluster = random.next(4);
    const double before = speed(cluster);
    cluster.pool.link->latency_seconds *= 0.7;
    const double quicker = speed(cluster);
    EXPECT_GE(quicker * kRounding, before);
    cluster.pool.link->bandwidth *= 1.5;
    EXPECT_GE(speed(cluster) * kRounding, quicker);
  }
}

TEST(RandomClusters, FewerBytesAreNeverSlower) {
  RandomCluster random(4);
  for (std::size_t i = 0; i < kClusters; ++i) {
    SCOPED_TRACE(i);
    Cluster cluster = random.next(4);
    // Where memory is full, fewer bytes also mean other whole units in what is left, and which are
    // dealt best is a packing problem that the planner solves only nearly.
    const bool roomy = i % 2 == 0;
    if (roomy) {
      for (Machine& machine : cluster.pool.machines) {
        machine.usable_bytes += 4.0 * (stored_bytes(cluster.model) + kv_reserve_bytes(cluster));
        machine.memory_bytes += machine.usable_bytes;
      }
    }
    const double before = speed(cluster);
    PartFormat& part = cluster.model.quant.parts[i / 2 % kParts];
    part.bytes_per_parameter *= 0.8;
    EXPECT_GE(speed(cluster) * (roomy ? kRounding : 1.005), before);
  }
}

TEST(RandomClusters, TheStrategySwitchesAtTheCrossover) {
  RandomCluster random(5);
  std::size_t switched = 0;
  for (std::size_t i = 0; i < kClusters; ++i) {
    SCOPED_TRACE(i);
    Cluster cluster = random.next(4);
    cluster.policy.use_all_machines = true;
    cluster.pool.pairs.clear();
    cluster.software.strategies = {true, true, false, false};
    cluster.pool.topology = Topology::kSwitch;
    cluster.workload.batch = 1;
    const Result<Placement> placement = best_placement(cluster);
    if (!placement || placement->ranks.size() < 2) continue;
    const double crossover = crossover_seconds(cluster, *placement);
    if (crossover <= 0.0) continue;
    // Sets the latency so that one exchange takes `seconds`.
    std::vector<std::size_t> all;
    for (const Rank& rank : placement->ranks) all.push_back(rank.machine);
    const double elements = static_cast<double>(cluster.model.architecture.hidden_size);
    cluster.pool.link->bandwidth = 1e12;
    cluster.pool.link->latency_seconds = 0.0;
    const double fixed = exchange_seconds(cluster, all, elements);
    if (fixed > 0.95 * crossover) continue;
    const auto strategy_at = [&](double seconds) {
      Cluster tried = cluster;
      tried.pool.link->latency_seconds = seconds - fixed;
      const Result<Placement> best = best_placement(tried);
      return best ? best->strategy : Strategy::kPipeline;
    };
    EXPECT_EQ(strategy_at(0.95 * crossover), Strategy::kSlice);
    EXPECT_EQ(strategy_at(1.05 * crossover), Strategy::kSliceRa);
    ++switched;
  }
  EXPECT_GT(switched, kClusters / 20);
}

#ifdef __SANITIZE_THREAD__
constexpr double kPlanSecondsMax = 30.0;  // how slow the sanitizer is says nothing of the planner
#else
constexpr double kPlanSecondsMax = 1.0;
#endif

TEST(RandomClusters, TenThousandMachinesArePlannedInASecond) {
  RandomCluster random(6);
  Cluster cluster = random.next(1);
  cluster.pool.machines.front().usable_bytes = stored_bytes(cluster.model) * 0.05;
  cluster.pool.machines.front().memory_bytes = cluster.pool.machines.front().usable_bytes;
  cluster.workload.reserve_tokens = cluster.workload.context = 128;
  cluster.workload.batch = 1;
  for (std::size_t i = 1; i < 10'000; ++i) {
    Machine machine = cluster.pool.machines.front();
    machine.name = "m" + std::to_string(i);
    machine.peak_bandwidth *= 1.0 + 0.001 * static_cast<double>(i % 977);
    cluster.pool.machines.push_back(machine);
  }
  const auto start = std::chrono::steady_clock::now();
  const Result<Plan> plan = make_plan(cluster);
  const double took =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_TRUE(plan) << (plan ? "" : plan.error().message);
  RecordProperty("seconds", std::to_string(took));
  EXPECT_LT(took, kPlanSecondsMax);
}

}  // namespace
}  // namespace conclave::plan
