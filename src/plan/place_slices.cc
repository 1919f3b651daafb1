// Slices: heads, columns of every expert, rows of the vocabulary; or whole experts.
#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "plan/allocate.h"
#include "plan/memory.h"
#include "plan/phases.h"
#include "plan/place.h"
#include "plan/predict.h"
#include "plan/units.h"

namespace conclave::plan {
namespace {

// Weights in no cache.
constexpr double kNoCache = std::numeric_limits<double>::infinity();

class SlicePlacer {
 public:
  SlicePlacer(const Cluster& cluster, Strategy strategy, bool attention_replicated,
              std::span<const std::size_t> members)
      : cluster_(cluster),
        a_(cluster.model.architecture),
        shape_(decode_shape(cluster, cluster.workload.batch)) {
    placement_.strategy = strategy;
    placement_.attention_replicated =
        strategy == Strategy::kSliceRa || (strategy == Strategy::kExpert && attention_replicated);
    if (strategy == Strategy::kExpert) {
      placement_.expert_copies = std::min(cluster.policy.expert_copies, members.size());
    }
    for (const std::size_t member : members) {
      placement_.ranks.push_back({.machine = member});
      any_cache_ = any_cache_ || cluster.pool.machines[member].cache_bytes > 0.0;
    }
    const SliceBytes bytes = slice_bytes(cluster, placement_);
    replicated_ = bytes.replicated;
    split_ = bytes.split;
  }

  std::optional<Placement> best() {
    const Placement empty = placement_;
    // Weights in a cache are read faster, but how much a rank holds is only known once the units
    // are dealt: they are dealt for memory's speed and for that of an equal share.
    deal_and_compare(empty, kNoCache);
    if (any_cache_) deal_and_compare(empty, replicated_ + split_ / as_double(size()));
    if (!best_ || limited_) {
      // Where memory nearly does not suffice, shares by memory may even be the faster ones, because
      // they waste less of it in rounding.
      placement_ = empty;
      if (tight_slices()) compare();
    }
    return std::move(best_);
  }

 private:
  std::size_t size() const { return placement_.ranks.size(); }
  double usable(std::size_t i) const {
    return cluster_.pool.machines[placement_.ranks[i].machine].usable_bytes;
  }
  bool expert() const { return placement_.strategy == Strategy::kExpert; }

  void deal_and_compare(const Placement& empty, double resident_bytes) {
    placement_ = empty;
    for (Rank& rank : placement_.ranks) rank.weight_bytes = resident_bytes;
    if (slices()) compare();
  }

  // Keeps the division of the moment if it is the fastest so far.
  void compare() {
    if (!account_memory(cluster_, placement_)) return;
    const double seconds = predict_step(cluster_, placement_, cluster_.workload.batch).total();
    if (best_ && seconds >= best_seconds_) return;
    best_ = placement_;
    best_seconds_ = seconds;
  }

  // What fraction of the split bytes each rank has room for. It depends on memory alone, so that a
  // faster machine never changes what fits.
  std::vector<double> room() const {
    std::vector<double> fractions(size());
    for (std::size_t i = 0; i < size(); ++i) {
      const double embedding = i == 0 ? kept_bytes(cluster_, Part::kEmbedding) : 0.0;
      fractions[i] = std::max(0.0, usable(i) - embedding - replicated_) / split_;
    }
    return fractions;
  }

  std::optional<std::vector<std::size_t>> deal(
      std::size_t n_units, std::span<const std::size_t> caps,
      const std::function<double(std::size_t, std::size_t)>& finish) const {
    if (!cluster_.software.equal_shares) return deal_units(n_units, caps, finish);
    // Software without unequal shares deals alike, whatever the machines can do.
    return deal_units(n_units, caps,
                      [](std::size_t, std::size_t units) { return as_double(units); });
  }
  // Memory of so many heads, wherever among the KV heads they begin, and their part of the cache.
  double head_bytes(std::size_t n_heads) const {
    if (!splits_kv_heads(a_)) {
      return kept_bytes(cluster_, Part::kAttention) * ratio(n_heads, a_.n_heads);
    }
    // One more than the worst of fewer heads, so that more heads never count less.
    const std::size_t heads_per_kv = a_.n_heads / a_.n_kv_heads;
    const std::size_t touched = n_heads < 2 ? n_heads : (n_heads - 2) / heads_per_kv + 2;
    const double kv = ratio(std::min(touched, a_.n_kv_heads), a_.n_kv_heads);
    const double q_weights = as_double(a_.n_heads);
    const double kv_weights = as_double(a_.n_kv_heads);
    const double weights =
        (q_weights * ratio(n_heads, a_.n_heads) + kv_weights * kv) / (q_weights + kv_weights);
    return kept_bytes(cluster_, Part::kAttention) * weights + kv_reserve_bytes(cluster_) * kv;
  }
  std::size_t heads_within(double bytes) const {
    std::size_t heads = 0;
    while (heads < a_.n_heads && head_bytes(heads + 1) <= bytes * (1.0 + 1e-12)) ++heads;
    return heads;
  }

  std::vector<std::size_t> caps(const std::vector<double>& fractions, std::size_t n_units) const {
    std::vector<std::size_t> caps(fractions.size());
    for (std::size_t i = 0; i < caps.size(); ++i) caps[i] = whole_units(fractions[i], n_units);
    return caps;
  }

  // Seconds that rank i needs for attention with so many heads, and for its columns or experts.
  double attention_time(std::size_t i, std::size_t heads) {
    Rank& rank = placement_.ranks[i];
    rank.n_heads = heads;
    const PhaseWork work = phase_work(cluster_, placement_, i, shape_);
    rank.n_heads = 0;
    return (work.attention.time() + work.kv.time()) * as_double(a_.n_layers);
  }
  double columns_time(std::size_t i, std::size_t units) {
    Rank& rank = placement_.ranks[i];
    rank.expert_units = units;
    if (placement_.attention_replicated) rank.n_heads = a_.n_heads;
    const PhaseWork work = phase_work(cluster_, placement_, i, shape_);
    rank.expert_units = 0;
    rank.n_heads = 0;
    return (work.feed_forward + work.routed).time() * as_double(a_.n_layers - a_.n_dense_layers) +
           work.dense.time() * as_double(a_.n_dense_layers) +
           (work.attention.time() + work.kv.time()) * as_double(a_.n_layers);
  }
  double expert_time(std::size_t i, std::size_t experts) {
    Rank& rank = placement_.ranks[i];
    rank.n_experts = experts;
    const double seconds = phase_work(cluster_, placement_, i, shape_).routed.time();
    rank.n_experts = 0;
    return seconds;
  }
  double vocab_time(std::size_t i) {
    Rank& rank = placement_.ranks[i];
    rank.vocab_units = vocab_units(a_);
    const double seconds = phase_work(cluster_, placement_, i, shape_).head.time();
    rank.vocab_units = 0;
    return seconds;
  }

  bool slices() {
    const std::vector<double> fractions = room();
    const auto units = deal(expert_units(a_), caps(fractions, expert_units(a_)),
                            [this](std::size_t i, std::size_t u) { return columns_time(i, u); });
    std::optional<std::vector<std::size_t>> heads = std::vector<std::size_t>(size(), 0);
    if (!placement_.attention_replicated) {
      std::vector<std::size_t> limits(size());
      for (std::size_t i = 0; i < size(); ++i) {
        limits[i] = heads_within(fractions[i] * head_bytes(a_.n_heads));
      }
      heads = deal(a_.n_heads, limits,
                   [this](std::size_t i, std::size_t h) { return attention_time(i, h); });
    }
    const auto vocab = deal_vocab(caps(fractions, vocab_units(a_)));
    std::optional<std::vector<std::size_t>> experts = std::vector<std::size_t>(size(), 0);
    if (expert()) {
      std::vector<std::size_t> limits = caps(fractions, a_.n_experts * placement_.expert_copies);
      for (std::size_t& limit : limits) limit = std::min(limit, a_.n_experts);
      experts = deal(a_.n_experts * placement_.expert_copies, limits,
                     [this](std::size_t i, std::size_t n) { return expert_time(i, n); });
    }
    if (!units || !heads || !vocab || !experts) return false;
    for (std::size_t i = 0; i < size(); ++i) {
      limited_ = limited_ || fractions[i] < 1.0;
      set_rank(i, (*units)[i], (*heads)[i], (*vocab)[i], (*experts)[i]);
    }
    return true;
  }

  void set_rank(std::size_t i, std::size_t units, std::size_t heads, std::size_t vocab,
                std::size_t experts) {
    Rank& rank = placement_.ranks[i];
    rank.expert_units = units;
    rank.vocab_units = vocab;
    rank.n_experts = experts;
    rank.n_heads = heads;
    // Replicated attention is of use only where the layer goes on.
    if (placement_.attention_replicated && (units > 0 || experts > 0)) rank.n_heads = a_.n_heads;
  }

  std::optional<std::vector<std::size_t>> deal_vocab(const std::vector<std::size_t>& limits) {
    if (!cluster_.software.splits_head) return std::vector<std::size_t>(size(), 0);
    std::vector<double> whole(size());
    for (std::size_t i = 0; i < size(); ++i) whole[i] = vocab_time(i);
    return deal(vocab_units(a_), limits,
                [&whole](std::size_t i, std::size_t units) { return whole[i] * as_double(units); });
  }

  // When rounding down to whole units part by part leaves too little: every part in turn takes what
  // memory is really left, in proportion to it, and speed is not asked.
  bool tight_slices() {
    std::vector<double> left(size());
    for (std::size_t i = 0; i < size(); ++i) {
      left[i] = usable(i) - replicated_ - (i == 0 ? kept_bytes(cluster_, Part::kEmbedding) : 0.0);
    }
    const auto take = [&](std::size_t n_units, double bytes) {
      std::vector<std::size_t> limits(size());
      const double unit = bytes / as_double(n_units);
      for (std::size_t i = 0; i < size(); ++i) {
        limits[i] = left[i] > 0.0 ? whole_units(left[i] / bytes, n_units) : 0;
      }
      auto dealt = deal_units(n_units, limits, [&left](std::size_t i, std::size_t units) {
        return as_double(units) / left[i];
      });
      if (dealt) {
        for (std::size_t i = 0; i < size(); ++i) left[i] -= as_double((*dealt)[i]) * unit;
      }
      return dealt;
    };
    const double columns_bytes = kept_bytes(cluster_, Part::kShared) +
                                 kept_bytes(cluster_, Part::kDense) +
                                 (expert() ? 0.0 : kept_bytes(cluster_, Part::kRouted));
    std::optional<std::vector<std::size_t>> experts = std::vector<std::size_t>(size(), 0);
    if (expert()) {
      const double copies = as_double(placement_.expert_copies);
      experts = take(a_.n_experts * placement_.expert_copies,
                     kept_bytes(cluster_, Part::kRouted) * copies);
      if (experts && *std::max_element(experts->begin(), experts->end()) > a_.n_experts) {
        return false;
      }
    }
    const auto units = take(expert_units(a_), columns_bytes);
    std::optional<std::vector<std::size_t>> heads = std::vector<std::size_t>(size(), 0);
    if (!placement_.attention_replicated) {
      std::vector<std::size_t> limits(size());
      for (std::size_t i = 0; i < size(); ++i) limits[i] = heads_within(left[i]);
      heads = deal_units(a_.n_heads, limits, [&left](std::size_t i, std::size_t n_heads) {
        return as_double(n_heads) / left[i];
      });
      for (std::size_t i = 0; heads && i < size(); ++i) left[i] -= head_bytes((*heads)[i]);
    }
    std::optional<std::vector<std::size_t>> vocab = std::vector<std::size_t>(size(), 0);
    if (cluster_.software.splits_head) {
      vocab = take(vocab_units(a_), kept_bytes(cluster_, Part::kHead));
    }
    if (!units || !heads || !vocab || !experts) return false;
    for (std::size_t i = 0; i < size(); ++i) {
      set_rank(i, (*units)[i], (*heads)[i], (*vocab)[i], (*experts)[i]);
    }
    return true;
  }

  const Cluster& cluster_;
  const Architecture& a_;
  StepShape shape_;
  Placement placement_;      // being made
  double replicated_ = 0.0;  // bytes
  double split_ = 0.0;
  bool any_cache_ = false;
  bool limited_ = false;  // some rank has no room for everything
  std::optional<Placement> best_;
  double best_seconds_ = 0.0;
};

}  // namespace

SliceBytes slice_bytes(const Cluster& cluster, const Placement& placement) {
  const bool whole_cache =
      placement.attention_replicated || !splits_kv_heads(cluster.model.architecture);
  SliceBytes bytes;
  bytes.replicated =
      kept_bytes(cluster, Part::kAttentionSmall) + kept_bytes(cluster, Part::kRouter);
  bytes.split = kept_bytes(cluster, Part::kShared) + kept_bytes(cluster, Part::kDense) +
                kept_bytes(cluster, Part::kRouted) * as_double(placement.expert_copies);
  (placement.attention_replicated ? bytes.replicated : bytes.split) +=
      kept_bytes(cluster, Part::kAttention);
  (cluster.software.splits_head ? bytes.split : bytes.replicated) +=
      kept_bytes(cluster, Part::kHead);
  (whole_cache ? bytes.replicated : bytes.split) += kv_reserve_bytes(cluster);
  return bytes;
}

std::optional<Placement> place_slices(const Cluster& cluster, Strategy strategy,
                                      bool attention_replicated,
                                      std::span<const std::size_t> members) {
  return SlicePlacer(cluster, strategy, attention_replicated, members).best();
}

}  // namespace conclave::plan
