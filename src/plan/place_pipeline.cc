// Layers: one stage of the model on each machine.
#include <algorithm>
#include <numeric>
#include <vector>

#include "plan/allocate.h"
#include "plan/exchange.h"
#include "plan/memory.h"
#include "plan/phases.h"
#include "plan/place.h"
#include "plan/predict.h"
#include "plan/units.h"

namespace conclave::plan {
namespace {

class PipelinePlacer {
 public:
  PipelinePlacer(const Cluster& cluster, std::span<const std::size_t> members)
      : cluster_(cluster), a_(cluster.model.architecture) {
    placement_.strategy = Strategy::kPipeline;
    for (const std::size_t member : members) {
      // A stage reads all that it holds, which no cache does.
      placement_.ranks.push_back(
          {.machine = member,
           .weight_bytes = stored_bytes(cluster.model) / as_double(members.size())});
    }
    if (members.size() > 1) {
      const std::size_t n_groups = std::min(cluster.workload.batch, members.size());
      rows_ = (cluster.workload.batch + n_groups - 1) / n_groups;
      hop_seconds_ = hop_seconds(cluster, members, as_double(rows_ * a_.hidden_size));
    } else {
      rows_ = cluster.workload.batch;
    }
  }

  std::optional<Placement> best() {
    std::optional<Placement> best;
    double least = 0.0;
    for (const std::size_t head_rank : heads()) {
      for (const bool first_has_layers : {true, false}) {
        if (!first_has_layers && size() == 1) continue;
        Placement tried = placement_;
        if (!fill({head_rank, first_has_layers}, tried)) continue;
        if (!account_memory(cluster_, tried)) continue;
        const double seconds = predict_step(cluster_, tried, cluster_.workload.batch).total();
        if (best && seconds >= least) continue;
        best = std::move(tried);
        least = seconds;
      }
    }
    return best;
  }

 private:
  // One choice of a pipeline: who computes lm_head, and whether the head machine has layers at all.
  struct Form {
    std::size_t head_rank = 0;
    bool first_has_layers = true;
  };

  std::size_t size() const { return placement_.ranks.size(); }
  double usable(std::size_t i) const {
    return cluster_.pool.machines[placement_.ranks[i].machine].usable_bytes;
  }

  // Every rank, or of many the fastest and the largest.
  std::vector<std::size_t> heads() const {
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

  bool fill(const Form& form, Placement& tried) {
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
    const bool spread = cluster_.policy.use_all_machines || cluster_.software.uses_all_machines ||
                        cluster_.software.equal_shares;
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
      const bool aside = has_head && i != 0 && i + 1 != size();
      cost.fixed += aside ? 2.0 * hop_seconds_ : hop_seconds_;
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

  const Cluster& cluster_;
  const Architecture& a_;
  Placement placement_;       // without layers
  std::size_t rows_ = 1;      // streams in a group, as pipeline_step in predict.cc forms them
  double hop_seconds_ = 0.0;  // from a stage to the next
};

}  // namespace

std::optional<Placement> place_pipeline(const Cluster& cluster,
                                        std::span<const std::size_t> members) {
  return PipelinePlacer(cluster, members).best();
}

}  // namespace conclave::plan
