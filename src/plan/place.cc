// Which machine holds what. docs/design.md 3: shares follow speed, bounded by memory, in whole
// units: heads, 32 columns of every expert, 32 rows of the vocabulary, layers, experts.
#include "plan/place.h"

#include <fmt/format.h>

#include "base/check.h"
#include "plan/memory.h"
#include "plan/plan.h"
#include "plan/predict.h"
#include "plan/units.h"

namespace conclave::plan {
namespace {

// Small models have sizes too.
std::string size_text(double bytes) {
  return bytes < 5e7 ? fmt::format("{:.1f} MB", bytes / 1e6)
                     : fmt::format("{:.1f} GB", bytes / 1e9);
}

Error does_not_fit(const Cluster& cluster, Strategy strategy,
                   std::span<const std::size_t> members) {
  double have = 0.0;
  for (const std::size_t member : members) have += cluster.pool.machines[member].usable_bytes;
  double need = 0.0;
  if (strategy == Strategy::kPipeline) {
    need = kv_reserve_bytes(cluster);
    for (std::size_t i = 0; i < kParts; ++i) need += kept_bytes(cluster, static_cast<Part>(i));
  } else {
    Placement placement;
    placement.strategy = strategy;
    placement.attention_replicated = strategy == Strategy::kSliceRa;
    const SliceBytes bytes = slice_bytes(cluster, placement);
    need = kept_bytes(cluster, Part::kEmbedding) + bytes.split +
           bytes.replicated * as_double(members.size());
  }
  const std::string what = fmt::format(
      "{} ({}) does not fit as {} on {} machine{}: it needs {} with {} of KV cache, "
      "usable are {}",
      cluster.model.architecture.name, cluster.model.quant.name, name_of(strategy), members.size(),
      members.size() == 1 ? "" : "s", size_text(need), size_text(kv_reserve_bytes(cluster)),
      size_text(have));
  if (need > have) {
    return exhausted(fmt::format("{}: {} missing", what, size_text(need - have)));
  }
  return exhausted(what + ", but not in whole units on each");
}

// Some software splits tensors into equal parts or not at all.
Result<void> check_even(const Cluster& cluster, Strategy strategy, std::size_t n_ranks) {
  const Architecture& a = cluster.model.architecture;
  if (!cluster.software.equal_shares || cluster.policy.allow_uneven) return {};
  if (strategy == Strategy::kPipeline || strategy == Strategy::kExpert) return {};
  if (a.n_heads % n_ranks == 0 && a.hidden_size % n_ranks == 0) return {};
  return exhausted(fmt::format(
      "{} divides only evenly, and {} heads and {} columns do not divide by {} machines",
      cluster.software.name, a.n_heads, a.hidden_size, n_ranks));
}

}  // namespace

Result<Placement> place(const Cluster& cluster, Strategy strategy,
                        std::span<const std::size_t> members) {
  CHECK(!members.empty());
  TRY(check_even(cluster, strategy, members.size()));
  std::optional<Placement> best;
  if (strategy == Strategy::kPipeline) {
    best = place_pipeline(cluster, members);
  } else {
    const std::optional<bool> wanted = cluster.policy.replicate_attention;
    best = place_slices(cluster, strategy, wanted.value_or(false), members);
    if (strategy == Strategy::kExpert && !wanted) {
      auto replicated = place_slices(cluster, strategy, true, members);
      const std::size_t batch = cluster.workload.batch;
      if (replicated && (!best || predict_step(cluster, *replicated, batch).total() <
                                      predict_step(cluster, *best, batch).total())) {
        best = std::move(replicated);
      }
    }
  }
  if (!best) return does_not_fit(cluster, strategy, members);
  return std::move(*best);
}

}  // namespace conclave::plan
