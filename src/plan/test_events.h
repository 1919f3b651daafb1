// A cluster in plain numbers for the tests of the event-level prediction.
#pragma once

#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "plan/plan.h"

namespace conclave::plan {

// A model of Kimi K2's proportions with a third of its layers, on `n` equal machines.
inline Cluster test_cluster(std::size_t n, std::size_t batch) {
  Cluster cluster;
  cluster.name = "test";
  Architecture& a = cluster.model.architecture;
  a.name = "test";
  a.attention = AttentionKind::kMla;
  a.n_layers = 24;
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
  cluster.model.quant.of(Part::kRouted) = {Format::kInt4, 0.5625};
  for (std::size_t i = 0; i < n; ++i) {
    Machine machine;
    machine.name = "m" + std::to_string(i);
    machine.device = DeviceClass::kApple;
    machine.memory_bytes = 512e9;
    machine.usable_bytes = 490e9;
    machine.peak_bandwidth = 819e9;
    machine.prefill_flops = 14.3e12;
    cluster.pool.machines.push_back(machine);
  }
  cluster.pool.link = Link{.name = "test",
                           .title = "",
                           .transport = Transport::kTcp,
                           .latency_seconds = 30e-6,
                           .jitter_seconds = 10e-6,
                           .bandwidth = 3e9};
  for (auto& dispatch : cluster.software.dispatch_seconds) dispatch = {60e-6, 60e-6};
  for (ExchangeCost& cost : cluster.software.exchange) {
    cost.overhead_seconds = 20e-6;
    cost.per_peer_seconds = 2e-6;
  }
  cluster.software.hop_seconds = 50e-6;
  cluster.software.backups = true;
  cluster.workload.batch = batch;
  cluster.policy.use_all_machines = true;
  return cluster;
}

inline Placement test_placement(const Cluster& cluster, Strategy strategy) {
  std::vector<std::size_t> members(cluster.pool.machines.size());
  std::iota(members.begin(), members.end(), std::size_t{0});
  Result<Placement> placement = place(cluster, strategy, members);
  CHECK(placement);
  return std::move(*placement);
}

inline EventOptions without_chance(std::size_t n_tokens = 32) {
  EventOptions options;
  options.n_tokens = n_tokens;
  options.jitter = false;
  return options;
}

// Speed by events over speed by the closed form.
inline double agreement(const Cluster& cluster, Strategy strategy) {
  const Placement placement = test_placement(cluster, strategy);
  const EventPrediction events = predict_events(cluster, placement, without_chance());
  return events.tokens_per_second / predict(cluster, placement).tokens_per_second;
}

}  // namespace conclave::plan
