// Which machine holds what. docs/design.md 3: shares follow speed, bounded by memory, in whole
// units: heads, 32 columns of every expert, 32 rows of the vocabulary, layers, experts.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "plan/allocate.h"
#include "plan/exchange.h"
#include "plan/memory.h"
#include "plan/phases.h"
#include "plan/plan.h"
#include "plan/predict.h"

namespace conclave::plan {
namespace {

double as_double(std::size_t value) { return static_cast<double>(value); }

std::size_t whole_units(double fraction, std::size_t n_units) {
  if (!(fraction > 0.0)) return 0;
  // The small term forgives rounding in the division that made the fraction.
  return static_cast<std::size_t>(std::min(1.0, fraction) * as_double(n_units) + 1e-9);
}

// Places one strategy on a fixed list of machines.
class Placer {
 public:
  Placer(const Cluster& cluster, Strategy strategy, bool replicate_attention,
         std::span<const std::size_t> members)
      : cluster_(cluster), a_(cluster.model.architecture), shape_(shape_of(cluster)) {
    placement_.strategy = strategy;
    placement_.attention_replicated =
        strategy == Strategy::kSliceRa || (strategy == Strategy::kExpert && replicate_attention);
    if (strategy == Strategy::kExpert) {
      placement_.expert_copies = std::min(cluster.policy.expert_copies, members.size());
    }
    for (const std::size_t member : members) placement_.ranks.push_back({.machine = member});
  }

  Result<Placement> place() {
    const bool placed = placement_.strategy == Strategy::kPipeline ? pipeline() : best_slices();
    if (!placed) return does_not_fit();
    return std::move(placement_);
  }

 private:
  static StepShape shape_of(const Cluster& cluster) {
    return decode_shape(cluster, cluster.workload.batch);
  }
  std::size_t size() const { return placement_.ranks.size(); }
  double usable(std::size_t i) const {
    return cluster_.pool.machines[placement_.ranks[i].machine].usable_bytes;
  }
  bool expert() const { return placement_.strategy == Strategy::kExpert; }

  // Held whole by every rank that holds anything of the layers.
  double replicated_bytes() const {
    double bytes =
        kept_bytes(cluster_, Part::kAttentionSmall) + kept_bytes(cluster_, Part::kRouter);
    if (placement_.attention_replicated) bytes += kept_bytes(cluster_, Part::kAttention);
    if (!cluster_.software.splits_head) bytes += kept_bytes(cluster_, Part::kHead);
    if (placement_.attention_replicated || a_.attention == AttentionKind::kMla) {
      bytes += kv_reserve_bytes(cluster_);
    }
    return bytes;
  }
  double split_bytes() const {
    double bytes = kept_bytes(cluster_, Part::kShared) + kept_bytes(cluster_, Part::kDense) +
                   kept_bytes(cluster_, Part::kRouted) * as_double(placement_.expert_copies);
    if (!placement_.attention_replicated) bytes += kept_bytes(cluster_, Part::kAttention);
    if (cluster_.software.splits_head) bytes += kept_bytes(cluster_, Part::kHead);
    if (!placement_.attention_replicated && a_.attention == AttentionKind::kGqa) {
      bytes += kv_reserve_bytes(cluster_);
    }
    return bytes;
  }

  // What fraction of the split bytes each rank has room for. It depends on memory alone, so that a
  // faster machine never changes what fits.
  std::vector<double> room() const {
    std::vector<double> fractions(size());
    for (std::size_t i = 0; i < size(); ++i) {
      const double embedding = i == 0 ? kept_bytes(cluster_, Part::kEmbedding) : 0.0;
      fractions[i] = std::max(0.0, usable(i) - embedding - replicated_bytes()) / split_bytes();
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

  // Shares by speed where memory allows; where it nearly does not, shares by memory may even be the
  // faster ones, because they waste less of it in rounding.
  bool best_slices() {
    const Placement empty = placement_;
    const bool by_speed = slices() && account_memory(cluster_, placement_);
    if (by_speed && !limited_) return true;
    const Placement first = std::exchange(placement_, empty);
    const bool by_memory = tight_slices() && account_memory(cluster_, placement_);
    if (!by_speed) return by_memory;
    const std::size_t batch = cluster_.workload.batch;
    if (!by_memory || predict_step(cluster_, first, batch).total() <=
                          predict_step(cluster_, placement_, batch).total()) {
      placement_ = first;
    }
    return true;
  }

  bool slices() {
    const std::vector<double> fractions = room();
    const auto units = deal(expert_units(a_), caps(fractions, expert_units(a_)),
                            [this](std::size_t i, std::size_t u) { return columns_time(i, u); });
    std::optional<std::vector<std::size_t>> heads = std::vector<std::size_t>(size(), 0);
    if (!placement_.attention_replicated) {
      heads = deal(a_.n_heads, caps(fractions, a_.n_heads),
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
      limited_ = limited_ || (fractions[i] < 1.0 && (*units)[i] > 0 &&
                              (*units)[i] + 1 > whole_units(fractions[i], expert_units(a_)));
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
      left[i] =
          usable(i) - replicated_bytes() - (i == 0 ? kept_bytes(cluster_, Part::kEmbedding) : 0.0);
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
      const double kv = a_.attention == AttentionKind::kGqa ? kv_reserve_bytes(cluster_) : 0.0;
      heads = take(a_.n_heads, kept_bytes(cluster_, Part::kAttention) + kv);
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

  // One choice of a pipeline: who computes lm_head, and whether the head machine has layers at all.
  struct PipelineForm {
    std::size_t head_rank = 0;
    bool first_has_layers = true;
  };

  bool pipeline() {
    std::optional<Placement> best;
    double least = 0.0;
    for (const std::size_t head_rank : pipeline_heads()) {
      for (const bool first_has_layers : {true, false}) {
        if (!first_has_layers && size() == 1) continue;
        Placement tried = placement_;
        if (!fill_pipeline({head_rank, first_has_layers}, tried)) continue;
        if (!account_memory(cluster_, tried)) continue;
        const double seconds = predict_step(cluster_, tried, cluster_.workload.batch).total();
        if (best && seconds >= least) continue;
        best = std::move(tried);
        least = seconds;
      }
    }
    if (best) placement_ = std::move(*best);
    return best.has_value();
  }

  // Every rank, or of many the fastest and the largest.
  std::vector<std::size_t> pipeline_heads() const {
    constexpr std::size_t kTryAllMax = 8;
    std::vector<std::size_t> ranks(size());
    std::iota(ranks.begin(), ranks.end(), std::size_t{0});
    if (size() <= kTryAllMax) return ranks;
    const auto machine = [this](std::size_t i) -> const Machine& {
      return cluster_.pool.machines[placement_.ranks[i].machine];
    };
    const auto fastest =
        std::max_element(ranks.begin(), ranks.end(), [&machine](std::size_t x, std::size_t y) {
          return machine(x).peak_bandwidth < machine(y).peak_bandwidth;
        });
    const auto largest =
        std::max_element(ranks.begin(), ranks.end(), [&machine](std::size_t x, std::size_t y) {
          return machine(x).usable_bytes < machine(y).usable_bytes;
        });
    return {*fastest, *largest};
  }

  bool fill_pipeline(const PipelineForm& form, Placement& tried) {
    const std::size_t first_stage = form.first_has_layers ? 0 : 1;
    const double layer =
        largest_layer_bytes() + kv_reserve_bytes(cluster_) / as_double(a_.n_layers);
    std::vector<StageCost> stages;
    for (std::size_t i = first_stage; i < size(); ++i) {
      double room = usable(i);
      if (i == 0) room -= kept_bytes(cluster_, Part::kEmbedding);
      if (i == form.head_rank) room -= kept_bytes(cluster_, Part::kHead);
      StageCost stage = stage_cost(i, i == form.head_rank);
      stage.layers_max = whole_units(room / (layer * as_double(a_.n_layers)), a_.n_layers);
      stages.push_back(stage);
    }
    // Whoever wants every machine used, or cannot give unequal shares, spreads the layers.
    constexpr std::size_t kManyGroups = 1000;
    const bool spread = cluster_.policy.use_all_machines || cluster_.software.equal_shares;
    const std::size_t n_groups =
        spread ? kManyGroups : std::min(cluster_.workload.batch, stages.size());
    const auto layers = deal_layers(a_.n_layers, n_groups, stages);
    if (!layers) return false;
    std::size_t first = 0;
    for (std::size_t i = 0; i < size(); ++i) {
      Rank& rank = tried.ranks[i];
      rank.n_layers = i < first_stage ? 0 : (*layers)[i - first_stage];
      rank.first_layer = first;
      first += rank.n_layers;
    }
    tried.ranks[form.head_rank].vocab_units = vocab_units(a_);
    return true;
  }

  StageCost stage_cost(std::size_t i, bool has_head) {
    if (cluster_.software.equal_shares) return {.per_layer = 1.0, .fixed = 0.0, .layers_max = 0};
    // A group of streams, as pipeline_step in predict.cc forms them.
    const std::size_t n_groups = std::min(cluster_.workload.batch, size());
    const std::size_t rows = (cluster_.workload.batch + n_groups - 1) / n_groups;
    Rank& rank = placement_.ranks[i];
    rank.n_layers = 1;
    rank.vocab_units = has_head ? vocab_units(a_) : 0;
    const PhaseWork work = phase_work(cluster_, placement_, i, decode_shape(cluster_, rows));
    rank.n_layers = 0;
    rank.vocab_units = 0;
    const Machine& machine = cluster_.pool.machines[rank.machine];
    const double dense_share = as_double(a_.n_dense_layers) / as_double(a_.n_layers);
    StageCost cost;
    cost.per_layer = work.attention.time() + work.kv.time() + dense_share * work.dense.time() +
                     (1.0 - dense_share) * (work.feed_forward + work.routed).time() +
                     dispatch_seconds(cluster_, machine);
    if (has_head) cost.fixed = work.head.time();
    if (size() > 1) {
      std::vector<std::size_t> machines;
      for (const Rank& other : placement_.ranks) machines.push_back(other.machine);
      const double hop = hop_seconds(cluster_, machines, as_double(rows * a_.hidden_size));
      const bool aside = has_head && i != 0 && i + 1 != size();
      cost.fixed += aside ? 2.0 * hop : hop;
    }
    return cost;
  }

  double largest_layer_bytes() const {
    const double attention =
        (kept_bytes(cluster_, Part::kAttention) + kept_bytes(cluster_, Part::kAttentionSmall)) /
        as_double(a_.n_layers);
    const double moe = (kept_bytes(cluster_, Part::kRouter) + kept_bytes(cluster_, Part::kShared) +
                        kept_bytes(cluster_, Part::kRouted)) /
                       as_double(a_.n_layers - a_.n_dense_layers);
    const double dense = a_.n_dense_layers == 0
                             ? 0.0
                             : kept_bytes(cluster_, Part::kDense) / as_double(a_.n_dense_layers);
    return attention + std::max(moe, dense);
  }

  Error does_not_fit() const {
    double have = 0.0;
    for (std::size_t i = 0; i < size(); ++i) have += usable(i);
    double need = kept_bytes(cluster_, Part::kEmbedding);
    if (placement_.strategy == Strategy::kPipeline) {
      need = stored_bytes(cluster_.model) + kv_reserve_bytes(cluster_);
    } else {
      need += split_bytes() + replicated_bytes() * as_double(size());
    }
    const std::string what = fmt::format(
        "{} ({}) does not fit as {} on {} machine{}: it needs {:.1f} GB with {:.1f} GB of KV "
        "cache, "
        "usable are {:.1f} GB",
        a_.name, cluster_.model.quant.name, name_of(placement_.strategy), size(),
        size() == 1 ? "" : "s", need / 1e9, kv_reserve_bytes(cluster_) / 1e9, have / 1e9);
    if (need > have)
      return exhausted(fmt::format("{}: {:.1f} GB missing", what, (need - have) / 1e9));
    return exhausted(what + ", but not in whole units on each");
  }

  const Cluster& cluster_;
  const Architecture& a_;
  StepShape shape_;
  Placement placement_;
  bool limited_ = false;  // some rank would have had more, had it more memory
};

}  // namespace

std::string_view name_of(Strategy strategy) {
  constexpr std::string_view kNames[kStrategies] = {"slice", "slice-ra", "expert", "pipeline"};
  return kNames[static_cast<std::size_t>(strategy)];
}

Result<Strategy> parse_strategy(std::string_view text) {
  for (std::size_t i = 0; i < kStrategies; ++i) {
    if (text == name_of(static_cast<Strategy>(i))) return static_cast<Strategy>(i);
  }
  return invalid_input(
      fmt::format("unknown strategy '{}': slice, slice-ra, expert or pipeline", text));
}

Result<Placement> place(const Cluster& cluster, Strategy strategy,
                        std::span<const std::size_t> members) {
  CHECK(!members.empty());
  const std::optional<bool> wanted = cluster.policy.replicate_attention;
  Result<Placement> split = Placer(cluster, strategy, wanted.value_or(false), members).place();
  if (strategy != Strategy::kExpert || wanted) return split;
  Result<Placement> replicated = Placer(cluster, strategy, true, members).place();
  if (!split || !replicated) return split ? std::move(split) : std::move(replicated);
  const std::size_t batch = cluster.workload.batch;
  const bool faster = predict_step(cluster, *replicated, batch).total() <
                      predict_step(cluster, *split, batch).total();
  return faster ? std::move(replicated) : std::move(split);
}

}  // namespace conclave::plan
