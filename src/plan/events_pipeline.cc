// `pipeline`: each rank does its layers and sends the rows on. Several streams travel in groups, so
// that every stage has one to work on.
#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "plan/events_network.h"
#include "plan/events_run.h"
#include "plan/phases.h"

namespace conclave::plan {
namespace {

struct Stage {
  std::size_t rank = 0;
  bool layers = false;
  bool head = false;    // lm_head
  bool sample = false;  // on rank 0
};

// Neighbouring duties of one rank are one stage.
std::vector<Stage> stages_of(const Placement& placement) {
  std::vector<Stage> stages;
  std::size_t head_rank = 0;
  for (std::size_t r = 0; r < placement.ranks.size(); ++r) {
    if (placement.ranks[r].n_layers > 0) stages.push_back({.rank = r, .layers = true});
    if (placement.ranks[r].vocab_units > 0) head_rank = r;
  }
  CHECK(!stages.empty());
  // Rank 0 has the embedding.
  if (stages.front().rank != 0) stages.insert(stages.begin(), {.rank = 0});
  if (stages.back().rank != head_rank) stages.push_back({.rank = head_rank});
  stages.back().head = true;
  if (stages.back().rank != 0) stages.push_back({.rank = 0});
  stages.back().sample = true;
  return stages;
}

class Pipeline {
 public:
  Pipeline(const Cluster& cluster, const Placement& placement, const EventOptions& options)
      : cluster_(cluster),
        placement_(placement),
        options_(options),
        world_(options.seed),
        network_(world_, cluster, placement, options.jitter),
        noise_(world_, options.compute_noise),
        stages_(stages_of(placement)),
        ranks_(placement.ranks.size()) {
    if (options.slow_rank) {
      network_.nodes().set_slow_factor(*options.slow_rank, options.slow_factor);
    }
    n_filled_ = count_filled();
    const std::size_t batch = cluster.workload.batch;
    groups_.resize(std::min(batch, n_filled_));
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      groups_[g].streams = batch / groups_.size() + (g < batch % groups_.size() ? 1 : 0);
    }
    groups_done_.assign(options.n_tokens, 0);
  }

  EventLog run() {
    for (std::size_t g = 0; g < groups_.size(); ++g) begin_step(g);
    while (!done_) CHECK(world_.run_one());
    const double total = seconds(world_.now() - Time{});
    log_.total_seconds = total;
    log_.rank_seconds = total * static_cast<double>(ranks_.size());
    if (lost_at_) log_.rank_seconds -= seconds(world_.now() - *lost_at_);
    log_.wait_seconds = std::max(0.0, log_.rank_seconds - seconds(worked_));
    log_.n_messages = network_.nodes().stats().sent;
    return std::move(log_);
  }

 private:
  struct Group {
    std::size_t streams = 0;
    std::size_t token = 0;
    std::size_t stage = 0;
  };
  struct RankState {
    std::deque<std::size_t> queue;  // groups that wait, at most all of them
    bool busy = false;
  };

  std::size_t count_filled() const {
    return static_cast<std::size_t>(std::count_if(stages_.begin(), stages_.end(),
                                                  [](const Stage& stage) { return stage.layers; }));
  }

  sim::Callback in_epoch(sim::Callback callback) {
    return [this, epoch = epoch_, callback = std::move(callback)] {
      if (epoch == epoch_) callback();
    };
  }

  StepShape shape_of(const Group& group) const { return decode_shape(cluster_, group.streams); }
  double bytes_of(const Group& group) const {
    return shape_of(group).rows * static_cast<double>(cluster_.model.architecture.hidden_size) *
           cluster_.software.wire_bytes_per_element;
  }

  double layers_seconds(std::size_t rank, const Group& group) const {
    const Rank& mine = placement_.ranks[rank];
    const StepShape shape = shape_of(group);
    const PhaseTimes t =
        phase_times(cluster_, placement_, rank, shape.rows, shape.distinct_experts);
    const std::size_t n_dense_layers = cluster_.model.architecture.n_dense_layers;
    const std::size_t end = mine.first_layer + mine.n_layers;
    const auto n = static_cast<double>(mine.n_layers);
    const auto n_dense = static_cast<double>(std::min(end, n_dense_layers) -
                                             std::min(mine.first_layer, n_dense_layers));
    const Machine& machine = cluster_.pool.machines[mine.machine];
    return n * (t.attention + t.kv + dispatch_seconds(cluster_, machine)) + n_dense * t.dense +
           (n - n_dense) * t.feed_forward;
  }

  double stage_seconds(const Stage& stage, const Group& group) const {
    const StepShape shape = shape_of(group);
    double seconds = 0.0;
    if (stage.layers) seconds += layers_seconds(stage.rank, group);
    // Backups: the others hold a lost rank's layers, alike.
    if (stage.layers && taken_over_) {
      seconds +=
          layers_seconds(*options_.lost_rank, group) / static_cast<double>(ranks_.size() - 1);
    }
    if (stage.head) {
      seconds +=
          phase_times(cluster_, placement_, head_rank(), shape.rows, shape.distinct_experts).head;
    }
    if (stage.sample) {
      seconds += cluster_.pool.machines[placement_.ranks[0].machine].step_seconds;
      const Speculation& speculation = cluster_.workload.speculation;
      if (speculation.draft_tokens > 0) seconds += speculation.draft_seconds;
    }
    return seconds;
  }
  // After a loss another rank may do its work, at the speed of the one that had it.
  std::size_t head_rank() const {
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      if (placement_.ranks[r].vocab_units > 0) return r;
    }
    return 0;
  }

  void begin_step(std::size_t g) {
    groups_[g].stage = 0;
    enqueue(g);
  }

  void enqueue(std::size_t g) {
    const std::size_t rank = stages_[groups_[g].stage].rank;
    ranks_[rank].queue.push_back(g);
    serve(rank);
  }

  void serve(std::size_t rank) {
    RankState& state = ranks_[rank];
    if (state.busy || state.queue.empty()) return;
    const std::size_t g = state.queue.front();
    const Group& group = groups_[g];
    if (rank == options_.lost_rank && !lost_at_ && group.token == options_.n_tokens / 2) {
      lose(rank);
      return;
    }
    state.queue.pop_front();
    state.busy = true;
    const std::size_t number = (group.token * stages_.size() + group.stage) * groups_.size() + g;
    work(rank, stage_seconds(stages_[group.stage], group) * noise_.factor(rank, number),
         [this, rank, g] { end_stage(rank, g); });
  }

  void work(std::size_t rank, double duration, sim::Callback callback) {
    const Time began = world_.now();
    network_.nodes().compute(rank, sim::from_seconds(duration),
                             in_epoch([this, began, callback = std::move(callback)] {
                               worked_ += world_.now() - began;
                               callback();
                             }));
  }

  void end_stage(std::size_t rank, std::size_t g) {
    Group& group = groups_[g];
    if (++group.stage == stages_.size()) {
      release(rank);
      end_step(g);
    } else if (stages_[group.stage].rank == rank) {
      release(rank);
      enqueue(g);
    } else {
      hop(rank, g);
    }
  }

  // The program copies the rows while its stage waits; the wire does not hold it.
  void hop(std::size_t rank, std::size_t g) {
    ranks_[rank].busy = true;
    work(rank, cluster_.software.hop_seconds, [this, rank, g] {
      network_.send(rank, stages_[groups_[g].stage].rank, bytes_of(groups_[g]),
                    in_epoch([this, g] { enqueue(g); }));
      release(rank);
    });
  }

  void release(std::size_t rank) {
    ranks_[rank].busy = false;
    // As an event of its own, after what this moment still brings.
    world_.schedule_after(Duration::zero(), in_epoch([this, rank] { serve(rank); }));
  }

  // A step has ended when all groups have.
  void end_step(std::size_t g) {
    const std::size_t token = groups_[g].token++;
    if (++groups_done_[token] == groups_.size()) {
      log_.step_seconds.push_back(seconds(world_.now() - step_began_));
      step_began_ = world_.now();
    }
    done_ = log_.step_seconds.size() == options_.n_tokens;
    if (groups_[g].token < options_.n_tokens) begin_step(g);
  }

  void lose(std::size_t rank) {
    lost_at_ = world_.now();
    network_.nodes().crash(rank);
    world_.schedule_after(sim::from_seconds(options_.detect_seconds), [this] { take_over(); });
  }

  // Groups begin their interrupted steps again. That the lost rank's cache must be filled again by
  // reading the answer so far is not in these numbers.
  void take_over() {
    ++epoch_;
    const std::size_t lost = *options_.lost_rank;
    if (lost == 0 || placement_.losses_survived == 0) {
      log_.finished = false;
      done_ = true;
      return;
    }
    taken_over_ = true;
    for (Stage& stage : stages_) {
      if (stage.rank != lost) continue;
      stage.layers = false;
      if (stage.head) stage.rank = 0;
    }
    std::erase_if(stages_, [lost](const Stage& stage) { return stage.rank == lost; });
    n_filled_ = count_filled();
    // Where the lost rank had all layers, rank 0 has the backup.
    if (n_filled_ == 0) {
      stages_.front().layers = true;
      n_filled_ = 1;
    }
    for (RankState& state : ranks_) state = {};
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      if (groups_[g].token < options_.n_tokens) begin_step(g);
    }
  }

  const Cluster& cluster_;
  const Placement& placement_;
  const EventOptions& options_;
  sim::World world_;
  RankNetwork network_;
  ComputeNoise noise_;
  std::vector<Stage> stages_;
  std::size_t n_filled_ = 0;  // stages with layers
  std::vector<RankState> ranks_;
  std::vector<Group> groups_;
  std::vector<std::size_t> groups_done_;  // [n_tokens]
  std::uint64_t epoch_ = 0;
  Time step_began_{};
  Duration worked_{};
  std::optional<Time> lost_at_;
  bool taken_over_ = false;
  bool done_ = false;
  EventLog log_;
};

}  // namespace

EventLog run_pipeline(const Cluster& cluster, const Placement& placement,
                      const EventOptions& options) {
  return Pipeline(cluster, placement, options).run();
}

}  // namespace conclave::plan
