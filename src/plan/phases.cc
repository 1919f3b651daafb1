#include "plan/phases.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "plan/units.h"

namespace conclave::plan {
namespace {

constexpr std::size_t kUnitColumns = 32;  // docs/design.md 3

// Bytes of one layer's part as this software keeps it.
double layer_bytes(const Cluster& cluster, Part part) {
  const PartFormat& format = cluster.model.quant.of(part);
  const double extra = format.scale_only ? cluster.software.int4_extra_bytes : 0.0;
  return parameters_of(cluster.model.architecture, part) * (format.bytes_per_parameter + extra);
}

// Work on one rank: `share` of the part's matrices, read once, multiplied by `rows` rows.
class RankWork {
 public:
  RankWork(const Cluster& cluster, const Placement& placement, std::size_t rank,
           double distinct_experts)
      : cluster_(cluster),
        machine_(cluster.pool.machines[placement.ranks[rank].machine]),
        in_turn_(bytes_in_turn(cluster, placement.ranks[rank].weight_bytes, distinct_experts)) {}

  Work matrices(Part part, double share, double rows, double copies_read = 1.0) const {
    const Format format = cluster_.model.quant.of(part).format;
    const double in_turn = part == Part::kRouted ? in_turn_.routed : in_turn_.others;
    const double rate = gemv_rate(cluster_, machine_, format, in_turn);
    Work work;
    work.memory = layer_bytes(cluster_, part) * share * copies_read / rate;
    work.compute =
        arithmetic(2.0 * parameters_of(cluster_.model.architecture, part) * share * rows);
    return work;
  }
  double read(double bytes, Format format) const {
    return bytes / gemv_rate(cluster_, machine_, format, in_turn_.others);
  }
  // A machine without a known FLOP rate is taken as limited by memory alone.
  double arithmetic(double flops) const {
    const double rate =
        machine_.prefill_flops *
        cluster_.software.prefill_efficiency[static_cast<std::size_t>(machine_.device)];
    return rate > 0.0 ? flops / rate : 0.0;
  }

 private:
  const Cluster& cluster_;
  const Machine& machine_;
  BytesInTurn in_turn_;
};

// Routed experts on this rank: a slice of each, whole ones, or all.
Work routed_work(const Cluster& cluster, const Placement& placement, std::size_t rank,
                 const RankWork& work, const StepShape& shape) {
  const Architecture& a = cluster.model.architecture;
  const Rank& mine = placement.ranks[rank];
  double columns = 1.0;  // of each expert that is read
  double held = 1.0;     // of all experts
  if (placement.strategy == Strategy::kExpert) {
    held = ratio(mine.n_experts, a.n_experts * placement.expert_copies);
  } else if (placement.strategy != Strategy::kPipeline) {
    columns = ratio(mine.expert_units, expert_units(a));
  }
  Work routed = work.matrices(Part::kRouted, columns, 0.0, shape.distinct_experts * held);
  // Each row multiplies experts_per_token experts, whoever holds them.
  routed.compute = work.arithmetic(2.0 * parameters_of(a, Part::kRouted) *
                                   as_double(a.experts_per_token) * shape.rows * columns * held);
  return routed;
}

}  // namespace

BytesInTurn bytes_in_turn(const Cluster& cluster, double weight_bytes, double distinct_experts) {
  const Model& model = cluster.model;
  const double all = stored_bytes(model);
  const double routed = stored_bytes(model, Part::kRouted);
  const double read = all - stored_bytes(model, Part::kEmbedding);  // its rows are read, not it
  const double left = std::min(1.0, distinct_experts / as_double(model.architecture.n_experts));
  return {.routed = weight_bytes * read / all,
          .others = weight_bytes * (read - routed * (1.0 - left)) / all};
}

double gemv_rate(const Cluster& cluster, const Machine& machine, Format format, double in_turn) {
  const std::size_t index = static_cast<std::size_t>(format);
  const double assumed = machine.peak_bandwidth * machine.efficiency *
                         cluster.software.efficiency[static_cast<std::size_t>(machine.device)];
  const double memory =
      machine.gemv_bandwidth[index] > 0.0 ? machine.gemv_bandwidth[index] : assumed;
  const double cache = machine.cache_gemv_bandwidth[index];
  if (cache <= memory || machine.cache_bytes <= 0.0) return memory;
  // Weights are read in the same order for every token. A cache that holds them serves all reads;
  // with twice as many, each line is gone before it is read again.
  const double hit = std::clamp(2.0 - in_turn / machine.cache_bytes, 0.0, 1.0);
  return 1.0 / (hit / cache + (1.0 - hit) / memory);
}

double dispatch_seconds(const Cluster& cluster, const Machine& machine) {
  if (machine.dispatch_seconds > 0.0) {
    return machine.dispatch_seconds +
           machine.expert_seconds * as_double(cluster.model.architecture.experts_per_token);
  }
  const auto& by_kind = cluster.software.dispatch_seconds[static_cast<std::size_t>(machine.device)];
  return by_kind[static_cast<std::size_t>(cluster.model.architecture.attention)];
}

std::size_t expert_units(const Architecture& a) {
  return std::max<std::size_t>(1, a.moe_intermediate_size / kUnitColumns);
}

std::size_t vocab_units(const Architecture& a) {
  return (a.vocab_size + kUnitColumns - 1) / kUnitColumns;
}

double kv_share(const Architecture& a, std::size_t n_heads) {
  if (n_heads == 0) return 0.0;
  if (a.attention == AttentionKind::kMla) return 1.0;  // all heads share the latent
  const std::size_t heads_per_kv = a.n_heads / a.n_kv_heads;
  return ratio((n_heads + heads_per_kv - 1) / heads_per_kv, a.n_kv_heads);
}

double kv_share_held(const Architecture& a, std::size_t n_heads) {
  if (n_heads == 0) return 0.0;
  if (!splits_kv_heads(a)) return 1.0;
  const std::size_t heads_per_kv = a.n_heads / a.n_kv_heads;
  // Ranks with whole groups of heads come first in head order, so that theirs are aligned; others
  // may begin and end within a group.
  if (n_heads % heads_per_kv == 0) return kv_share(a, n_heads);
  const std::size_t touched = std::min(n_heads, n_heads / heads_per_kv + 2);
  return ratio(std::min(touched, a.n_kv_heads), a.n_kv_heads);
}

namespace {

double attention_share_with(const Architecture& a, std::size_t n_heads, double kv) {
  const double heads = ratio(n_heads, a.n_heads);
  if (!splits_kv_heads(a)) return heads;
  const double kv_weights = as_double(a.n_kv_heads);  // k and v
  const double q_weights = as_double(a.n_heads);      // q and o
  return (q_weights * heads + kv_weights * kv) / (q_weights + kv_weights);
}

}  // namespace

double attention_share(const Architecture& a, std::size_t n_heads) {
  return attention_share_with(a, n_heads, kv_share(a, n_heads));
}

double attention_share_held(const Architecture& a, std::size_t n_heads) {
  return attention_share_with(a, n_heads, kv_share_held(a, n_heads));
}

StepShape decode_shape(const Cluster& cluster, std::size_t batch) {
  const Architecture& a = cluster.model.architecture;
  const Workload& workload = cluster.workload;
  const Speculation& speculation = workload.speculation;
  const std::size_t rows = batch * (1 + speculation.draft_tokens);
  StepShape shape;
  shape.rows = as_double(rows);
  shape.head_rows = shape.rows;
  const double fresh = distinct_experts(a, batch, workload.zipf);
  const double all = distinct_experts(a, rows, workload.zipf);
  shape.distinct_experts = fresh + (all - fresh) * (1.0 - speculation.expert_overlap);
  shape.cached_tokens = as_double(batch) * as_double(workload.context);
  shape.attention_flops = attention_flops(a, workload.context) * as_double(rows);
  return shape;
}

StepShape prefill_shape(const Cluster& cluster, std::size_t first, std::size_t rows) {
  const Architecture& a = cluster.model.architecture;
  StepShape shape;
  shape.rows = as_double(rows);
  shape.distinct_experts = distinct_experts(a, rows, cluster.workload.zipf);
  shape.cached_tokens = as_double(first + rows);
  shape.attention_flops = prefill_attention_flops(a, first + rows / 2) * as_double(rows);
  return shape;
}

PhaseWork phase_work(const Cluster& cluster, const Placement& placement, std::size_t rank,
                     const StepShape& shape) {
  const Architecture& a = cluster.model.architecture;
  const Rank& mine = placement.ranks[rank];
  const bool pipeline = placement.strategy == Strategy::kPipeline;
  const RankWork work(cluster, placement, rank, shape.distinct_experts);
  const std::size_t heads = pipeline ? a.n_heads : mine.n_heads;
  const double columns = pipeline ? 1.0 : ratio(mine.expert_units, expert_units(a));
  PhaseWork phases;
  if (heads > 0) {
    phases.attention = work.matrices(Part::kAttention, attention_share(a, heads), shape.rows) +
                       work.matrices(Part::kAttentionSmall, 1.0, shape.rows);
    const double layers = as_double(a.n_layers);
    const double per_token = kv_bytes(cluster.model, cluster.workload.context) /
                             std::max(1.0, as_double(cluster.workload.context));
    const double cached = per_token * shape.cached_tokens * kv_share(a, heads) / layers;
    phases.kv.memory = work.read(cached, Format::kBf16);
    phases.kv.compute = work.arithmetic(shape.attention_flops * ratio(heads, a.n_heads) / layers);
  }
  if (columns > 0.0 || mine.n_experts > 0) {
    phases.feed_forward = work.matrices(Part::kRouter, 1.0, shape.rows) +
                          work.matrices(Part::kShared, columns, shape.rows);
    phases.routed = routed_work(cluster, placement, rank, work, shape);
  }
  phases.dense = work.matrices(Part::kDense, columns, shape.rows);
  double vocab = ratio(mine.vocab_units, vocab_units(a));
  if (!cluster.software.splits_head && !pipeline) vocab = 1.0;
  phases.head = work.matrices(Part::kHead, vocab, shape.head_rows);
  return phases;
}

PhaseTimes phase_times(const Cluster& cluster, const Placement& placement, std::size_t rank,
                       double rows, double experts_read) {
  StepShape shape = decode_shape(cluster, cluster.workload.batch);
  shape.attention_flops *= rows / shape.rows;
  shape.cached_tokens = rows * static_cast<double>(cluster.workload.context) /
                        static_cast<double>(1 + cluster.workload.speculation.draft_tokens);
  shape.rows = rows;
  shape.head_rows = rows;
  shape.distinct_experts = experts_read;
  if (placement.strategy == Strategy::kExpert) {
    const Rank& mine = placement.ranks[rank];
    const double all = as_double(cluster.model.architecture.n_experts * placement.expert_copies);
    // routed_work takes the rank's part of a layer's distinct experts.
    shape.distinct_experts =
        mine.n_experts == 0 ? 0.0 : experts_read * all / as_double(mine.n_experts);
  }
  const PhaseWork work = phase_work(cluster, placement, rank, shape);
  return {.attention = work.attention.time(),
          .feed_forward = (work.feed_forward + work.routed).time(),
          .dense = work.dense.time(),
          .head = work.head.time(),
          .kv = work.kv.time()};
}

}  // namespace conclave::plan
