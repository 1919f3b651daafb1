#include "plan/memory.h"

#include <algorithm>

#include "base/check.h"
#include "plan/phases.h"
#include "plan/units.h"

namespace conclave::plan {
namespace {

double pipeline_weight_bytes(const Cluster& cluster, const Rank& rank) {
  const Architecture& a = cluster.model.architecture;
  const std::size_t end = rank.first_layer + rank.n_layers;
  const std::size_t n_dense =
      std::min(end, a.n_dense_layers) - std::min(rank.first_layer, a.n_dense_layers);
  const std::size_t n_moe = rank.n_layers - n_dense;
  const double attention =
      kept_bytes(cluster, Part::kAttention) + kept_bytes(cluster, Part::kAttentionSmall);
  const double moe = kept_bytes(cluster, Part::kRouter) + kept_bytes(cluster, Part::kShared) +
                     kept_bytes(cluster, Part::kRouted);
  return attention * ratio(rank.n_layers, a.n_layers) +
         moe * ratio(n_moe, a.n_layers - a.n_dense_layers) +
         kept_bytes(cluster, Part::kDense) * ratio(n_dense, a.n_dense_layers);
}

double slice_weight_bytes(const Cluster& cluster, const Placement& placement, const Rank& rank) {
  const Architecture& a = cluster.model.architecture;
  const double columns = ratio(rank.expert_units, expert_units(a));
  double routed = columns;
  if (placement.strategy == Strategy::kExpert) routed = ratio(rank.n_experts, a.n_experts);
  double bytes = kept_bytes(cluster, Part::kRouted) * routed +
                 (kept_bytes(cluster, Part::kShared) + kept_bytes(cluster, Part::kDense)) * columns;
  if (columns > 0.0 || routed > 0.0) bytes += kept_bytes(cluster, Part::kRouter);
  if (rank.n_heads > 0) {
    bytes += kept_bytes(cluster, Part::kAttention) * attention_share_held(a, rank.n_heads) +
             kept_bytes(cluster, Part::kAttentionSmall);
  }
  return bytes;
}

// What a loss of this rank takes away: everything but what others hold too.
double own_bytes(const Cluster& cluster, const Placement& placement, const Rank& rank) {
  double bytes = rank.weight_bytes;
  if (placement.strategy == Strategy::kPipeline) return bytes;
  if (rank.n_heads > 0) bytes -= kept_bytes(cluster, Part::kAttentionSmall);
  if (placement.attention_replicated && rank.n_heads > 0) {
    bytes -= kept_bytes(cluster, Part::kAttention);
  }
  if (rank.expert_units > 0 || rank.n_experts > 0) bytes -= kept_bytes(cluster, Part::kRouter);
  if (placement.strategy == Strategy::kExpert && placement.expert_copies > 1) {
    bytes -= kept_bytes(cluster, Part::kRouted) *
             ratio(rank.n_experts, cluster.model.architecture.n_experts);
  }
  return std::max(0.0, bytes);
}

// Spreads a copy of every other rank's slice over the free memory of the rest. The head's own slice
// needs none: its death ends the pool anyway.
void add_backups(const Cluster& cluster, Placement& placement) {
  if (!cluster.software.backups || cluster.policy.cover_losses == 0) return;
  if (placement.ranks.size() < 2) return;
  double all_free = 0.0;
  for (const Rank& rank : placement.ranks) all_free += rank.free_bytes;
  std::vector<double> backup(placement.ranks.size(), 0.0);
  // b[j] = sum over lost i != j of own_i * free_j / (all free - free_i).
  double sum = 0.0;
  std::vector<double> weight(placement.ranks.size(), 0.0);
  for (std::size_t i = 1; i < placement.ranks.size(); ++i) {
    const double own = own_bytes(cluster, placement, placement.ranks[i]);
    const double others = all_free - placement.ranks[i].free_bytes;
    if (own > others) return;
    weight[i] = own > 0.0 ? own / others : 0.0;
    sum += weight[i];
  }
  for (std::size_t j = 0; j < placement.ranks.size(); ++j) {
    backup[j] = placement.ranks[j].free_bytes * (sum - weight[j]);
    if (backup[j] > placement.ranks[j].free_bytes) return;
  }
  for (std::size_t j = 0; j < placement.ranks.size(); ++j) {
    placement.ranks[j].backup_bytes = backup[j];
    placement.ranks[j].free_bytes = std::max(0.0, placement.ranks[j].free_bytes - backup[j]);
  }
  placement.losses_survived = 1;
}

}  // namespace

double kept_bytes(const Cluster& cluster, Part part) {
  const double bytes = stored_bytes(cluster.model, part);
  const PartFormat& format = cluster.model.quant.of(part);
  if (!format.scale_only) return bytes;
  return bytes * (1.0 + cluster.software.int4_extra_bytes / format.bytes_per_parameter);
}

double kv_reserve_bytes(const Cluster& cluster) {
  const std::size_t streams = std::max<std::size_t>(1, cluster.workload.batch);
  const std::size_t tokens =
      std::max(cluster.workload.reserve_tokens / streams, cluster.workload.context);
  return kv_kept_bytes(cluster.model, tokens) * static_cast<double>(streams);
}

double rank_weight_bytes(const Cluster& cluster, const Placement& placement, const Rank& rank,
                         bool is_first) {
  const Architecture& a = cluster.model.architecture;
  double bytes = placement.strategy == Strategy::kPipeline
                     ? pipeline_weight_bytes(cluster, rank)
                     : slice_weight_bytes(cluster, placement, rank);
  double vocab = ratio(rank.vocab_units, vocab_units(a));
  if (!cluster.software.splits_head && placement.strategy != Strategy::kPipeline) vocab = 1.0;
  bytes += kept_bytes(cluster, Part::kHead) * vocab;
  if (is_first) bytes += kept_bytes(cluster, Part::kEmbedding);
  return bytes;
}

double rank_kv_bytes(const Cluster& cluster, const Placement& placement, const Rank& rank) {
  const Architecture& a = cluster.model.architecture;
  if (placement.strategy == Strategy::kPipeline) {
    return kv_reserve_bytes(cluster) * ratio(rank.n_layers, a.n_layers);
  }
  return kv_reserve_bytes(cluster) * kv_share_held(a, rank.n_heads);
}

bool account_memory(const Cluster& cluster, Placement& placement) {
  placement.losses_survived = 0;
  double split = 0.0;
  std::vector<double> own(placement.ranks.size());
  for (std::size_t i = 0; i < placement.ranks.size(); ++i) {
    Rank& rank = placement.ranks[i];
    rank.weight_bytes = rank_weight_bytes(cluster, placement, rank, i == 0);
    rank.kv_bytes = rank_kv_bytes(cluster, placement, rank);
    rank.backup_bytes = 0.0;
    rank.free_bytes =
        cluster.pool.machines[rank.machine].usable_bytes - rank.weight_bytes - rank.kv_bytes;
    if (rank.free_bytes < 0.0) return false;
    own[i] = own_bytes(cluster, placement, rank);
    if (i == 0) own[i] = std::max(0.0, own[i] - kept_bytes(cluster, Part::kEmbedding));
    split += own[i];
  }
  for (std::size_t i = 0; i < placement.ranks.size(); ++i) {
    placement.ranks[i].share = split > 0.0 ? own[i] / split : 1.0 / static_cast<double>(own.size());
  }
  add_backups(cluster, placement);
  return true;
}

}  // namespace conclave::plan
