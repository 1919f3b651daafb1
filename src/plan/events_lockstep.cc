// `slice`, `slice-ra` and `expert`: all ranks work on each layer and exchange their partial sums.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "plan/events_experts.h"
#include "plan/events_network.h"
#include "plan/events_run.h"
#include "plan/exchange.h"
#include "plan/phases.h"

namespace conclave::plan {
namespace {

// A rank returns the best of its vocabulary, each an id and a logit. docs/design.md 3.
constexpr double kCandidateBytes = 256 * 8.0;

struct Phase {
  bool attention = false;
  bool feed_forward = false;
  bool head = false;  // the last phase of a step
  std::size_t layer = 0;
};

std::vector<Phase> phases_of(const Architecture& architecture, const Placement& placement) {
  std::vector<Phase> phases;
  for (std::size_t layer = 0; layer < architecture.n_layers; ++layer) {
    if (placement.attention_replicated) {
      phases.push_back({.attention = true, .feed_forward = true, .layer = layer});
    } else {
      phases.push_back({.attention = true, .layer = layer});
      phases.push_back({.feed_forward = true, .layer = layer});
    }
  }
  phases.push_back({.head = true});
  return phases;
}

// Seconds of each phase on each rank, without noise.
class PhaseTable {
 public:
  PhaseTable(const Cluster& cluster, const Placement& placement, const sim::World& world)
      : cluster_(cluster),
        placement_(placement),
        shape_(decode_shape(cluster, cluster.workload.batch)),
        times_(placement.ranks.size()) {
    if (placement.strategy != Strategy::kExpert) return;
    std::vector<double> read_seconds;
    for (std::size_t r = 0; r < times_.size(); ++r) {
      // Many, since one alone may hide behind arithmetic.
      const double n = std::max<double>(1.0, static_cast<double>(placement.ranks[r].n_experts));
      read_seconds.push_back((phase_times(cluster, placement, r, shape_.rows, n).feed_forward -
                              phase_times(cluster, placement, r, shape_.rows, 0.0).feed_forward) /
                             n);
    }
    draws_.emplace(cluster, placement, world, std::move(read_seconds));
  }

  double seconds(std::size_t rank, const Phase& phase, std::size_t token) {
    if (phase.head) return times(rank, 0).head;
    const bool dense = phase.layer < cluster_.model.architecture.n_dense_layers;
    std::size_t experts = 0;
    if (draws_ && phase.feed_forward && !dense) {
      experts = draws_->read_by_rank(token, phase.layer)[rank];
    }
    const PhaseTimes& t = times(rank, experts);
    const Machine& machine = cluster_.pool.machines[placement_.ranks[rank].machine];
    // Half of a layer's kernels are attention's.
    const double halves = (phase.attention ? 0.5 : 0.0) + (phase.feed_forward ? 0.5 : 0.0);
    double seconds = halves * dispatch_seconds(cluster_, machine);
    if (phase.attention) seconds += t.attention + t.kv;
    if (phase.feed_forward) seconds += dense ? t.dense : t.feed_forward;
    return seconds;
  }
  const StepShape& shape() const { return shape_; }

 private:
  const PhaseTimes& times(std::size_t rank, std::size_t experts) {
    std::vector<std::optional<PhaseTimes>>& known = times_[rank];
    if (experts >= known.size()) known.resize(experts + 1);
    if (!known[experts]) {
      const double read = draws_ ? static_cast<double>(experts) : shape_.distinct_experts;
      known[experts] = phase_times(cluster_, placement_, rank, shape_.rows, read);
    }
    return *known[experts];
  }

  const Cluster& cluster_;
  const Placement& placement_;
  StepShape shape_;
  std::vector<std::vector<std::optional<PhaseTimes>>> times_;  // [rank][experts read]
  std::optional<ExpertDraws> draws_;
};

// How one exchange goes: `n_rounds` times each rank sends to its peers and waits for as many.
struct ExchangeWay {
  bool ring = false;
  std::size_t n_rounds = 1;
  double bytes = 0.0;  // of one message
};

class Lockstep {
 public:
  Lockstep(const Cluster& cluster, const Placement& placement, const EventOptions& options)
      : cluster_(cluster),
        placement_(placement),
        options_(options),
        world_(options.seed),
        network_(world_, cluster, placement, options.jitter),
        noise_(world_, options.compute_noise),
        table_(cluster, placement, world_),
        phases_(phases_of(cluster.model.architecture, placement)),
        ranks_(placement.ranks.size()) {
    for (std::size_t r = 0; r < ranks_.size(); ++r) alive_.push_back(r);
    if (options.slow_rank) {
      network_.nodes().set_slow_factor(*options.slow_rank, options.slow_factor);
    }
    choose_way();
  }

  EventLog run() {
    begin_step();
    while (!done_) CHECK(world_.run_one());
    const double total = seconds(world_.now() - Time{});
    log_.total_seconds = total;
    log_.rank_seconds = total * static_cast<double>(ranks_.size());
    if (lost_at_) log_.rank_seconds -= seconds(world_.now() - *lost_at_);
    log_.wait_seconds = seconds(waited_);
    log_.n_messages = network_.nodes().stats().sent;
    return std::move(log_);
  }

 private:
  struct RankState {
    std::size_t phase = 0;
    std::size_t rounds_left = 0;       // of this exchange, the present one included
    std::size_t round = 0;             // since the step began
    std::vector<std::size_t> arrived;  // of round r at r % size
    std::optional<Time> waiting_since;
  };

  void choose_way() {
    const double n = static_cast<double>(alive_.size());
    const double bytes = table_.shape().rows *
                         static_cast<double>(cluster_.model.architecture.hidden_size) *
                         cluster_.software.wire_bytes_per_element;
    way_ = {.ring = false, .n_rounds = 1, .bytes = bytes};
    for (const std::size_t a : alive_) {
      for (const std::size_t b : alive_) {
        if (a == b) continue;
        const Link& link = network_.link(a, b);
        if (network_.cost(a, b).collective == Collective::kRing) {
          way_ = {.ring = true, .n_rounds = 2 * (alive_.size() - 1), .bytes = bytes / n};
          return;
        }
        if (exchange_scatters(cluster_, link, alive_.size(), bytes)) {
          way_ = {.ring = false, .n_rounds = 2, .bytes = bytes / n};
        }
      }
    }
  }

  // The callback, unless the step was begun again since.
  sim::Callback in_epoch(sim::Callback callback) {
    return [this, epoch = epoch_, callback = std::move(callback)] {
      if (epoch == epoch_) callback();
    };
  }
  void after(std::size_t rank, Duration delay, sim::Callback callback) {
    network_.nodes().after(rank, delay, in_epoch(std::move(callback)));
  }
  void send(std::size_t from, std::size_t to, double bytes, sim::Callback callback) {
    network_.send(from, to, bytes, in_epoch(std::move(callback)));
  }
  bool alone() const { return alive_.size() == 1; }

  void begin_wait(std::size_t rank) { ranks_[rank].waiting_since = world_.now(); }
  void end_wait(std::size_t rank) {
    std::optional<Time>& since = ranks_[rank].waiting_since;
    if (since) waited_ += world_.now() - *since;
    since.reset();
  }

  // Rank 0 sends the rows of the next step to the others.
  void begin_step() {
    heads_left_ = alive_.size();
    for (const std::size_t r : alive_) {
      ranks_[r].phase = 0;
      ranks_[r].round = 0;
      // On a ring a neighbour may be a whole turn ahead.
      ranks_[r].arrived.assign(alive_.size() + 2, 0);
    }
    if (alone() || !cluster_.software.splits_head) {
      for (const std::size_t r : alive_) run_phase(r);
      return;
    }
    for (const std::size_t r : alive_) {
      if (r != 0 && !ranks_[r].waiting_since) begin_wait(r);
    }
    after(0, network_.overhead(0, alive_.size() - 1), [this] {
      const double bytes = table_.shape().rows *
                           static_cast<double>(cluster_.model.architecture.hidden_size) *
                           cluster_.software.wire_bytes_per_element;
      for (const std::size_t r : alive_) {
        if (r == 0) continue;
        send(0, r, bytes, [this, r] {
          end_wait(r);
          run_phase(r);
        });
      }
      run_phase(0);
    });
  }

  void run_phase(std::size_t rank) {
    const std::size_t number = ranks_[rank].phase;
    if (rank == options_.lost_rank && !lost_at_ && token() == options_.n_tokens / 2 &&
        number == phases_.size() / 2) {
      lose(rank);
      return;
    }
    double seconds = table_.seconds(rank, phases_[number], token());
    // Backups: a lost rank's work is shared alike.
    if (taken_over_) {
      seconds += table_.seconds(*options_.lost_rank, phases_[number], token()) /
                 static_cast<double>(alive_.size());
    }
    seconds *= noise_.factor(rank, token() * phases_.size() + number);
    network_.nodes().compute(rank, sim::from_seconds(seconds),
                             in_epoch([this, rank] { end_work(rank); }));
  }

  void end_work(std::size_t rank) {
    if (phases_[ranks_[rank].phase].head) {
      end_head(rank);
    } else if (alone()) {
      ++ranks_[rank].phase;
      run_phase(rank);
    } else {
      ranks_[rank].rounds_left = way_.n_rounds;
      begin_round(rank);
    }
  }

  void begin_round(std::size_t rank) {
    // A ring's cost is by step, and per peer once; docs/perf-model.md 1.2.
    const bool first = ranks_[rank].rounds_left == way_.n_rounds;
    const std::size_t n_peers = way_.ring && !first ? 0 : alive_.size() - 1;
    after(rank, network_.overhead(rank, n_peers), [this, rank] {
      const std::size_t round = ranks_[rank].round;
      const auto send_to = [&](std::size_t peer) {
        send(rank, peer, way_.bytes, [this, peer, round] { receive(peer, round); });
      };
      const std::size_t n = alive_.size();
      const auto me = std::find(alive_.begin(), alive_.end(), rank) - alive_.begin();
      // The farthest first, which on a ring has the longest way; and each rank in its own order, so
      // that not all send to rank 0 at once.
      for (std::size_t i = 0; i + 1 < (way_.ring ? 2 : n); ++i) {
        const std::size_t far = i % 2 == 0 ? n / 2 - i / 2 : n / 2 + (i + 1) / 2;
        send_to(alive_[(static_cast<std::size_t>(me) + (way_.ring ? 1 : far)) % n]);
      }
      begin_wait(rank);
      try_end_round(rank);
    });
  }

  void receive(std::size_t rank, std::size_t round) {
    RankState& state = ranks_[rank];
    CHECK(round >= state.round && round < state.round + state.arrived.size());
    ++state.arrived[round % state.arrived.size()];
    try_end_round(rank);
  }

  void try_end_round(std::size_t rank) {
    RankState& state = ranks_[rank];
    if (!state.waiting_since || state.rounds_left == 0) return;
    std::size_t& arrived = state.arrived[state.round % state.arrived.size()];
    if (arrived < (way_.ring ? 1 : alive_.size() - 1)) return;
    arrived = 0;
    end_wait(rank);
    ++state.round;
    if (--state.rounds_left > 0) {
      begin_round(rank);
      return;
    }
    ++state.phase;
    run_phase(rank);
  }

  void end_head(std::size_t rank) {
    if (alone() || !cluster_.software.splits_head || rank == 0) {
      if (rank == 0) begin_wait(0);
      count_head();
      return;
    }
    after(rank, network_.overhead(rank, 1), [this, rank] {
      begin_wait(rank);
      send(rank, 0, kCandidateBytes * table_.shape().rows, [this] { count_head(); });
    });
  }

  // Rank 0 samples when all have answered. Without a split head all ranks sample alike; that none
  // begins before the last one is ready changes nothing, as the first exchange waits for it.
  void count_head() {
    if (--heads_left_ > 0) return;
    end_wait(0);
    const Workload& workload = cluster_.workload;
    const std::size_t head = placement_.ranks[0].machine;
    double seconds = cluster_.pool.machines[head].step_seconds;
    if (workload.speculation.draft_tokens > 0) seconds += workload.speculation.draft_seconds;
    network_.nodes().compute(0, sim::from_seconds(seconds), in_epoch([this] { end_step(); }));
  }

  void end_step() {
    log_.step_seconds.push_back(seconds(world_.now() - step_began_));
    step_began_ = world_.now();
    if (token() == options_.n_tokens) {
      done_ = true;
    } else {
      begin_step();
    }
  }

  void lose(std::size_t rank) {
    lost_at_ = world_.now();
    network_.nodes().crash(rank);
    world_.schedule_after(sim::from_seconds(options_.detect_seconds), [this] { take_over(); });
  }

  // The rest begin the interrupted step again; what they had written to their caches is written
  // once more.
  void take_over() {
    ++epoch_;
    std::erase(alive_, *options_.lost_rank);
    for (const std::size_t r : alive_) end_wait(r);
    if (*options_.lost_rank == 0 || placement_.losses_survived == 0 || alive_.empty()) {
      log_.finished = false;
      done_ = true;
      return;
    }
    taken_over_ = true;
    choose_way();
    begin_step();
  }

  std::size_t token() const { return log_.step_seconds.size(); }

  const Cluster& cluster_;
  const Placement& placement_;
  const EventOptions& options_;
  sim::World world_;
  RankNetwork network_;
  ComputeNoise noise_;
  PhaseTable table_;
  std::vector<Phase> phases_;
  std::vector<RankState> ranks_;
  std::vector<std::size_t> alive_;  // ascending
  ExchangeWay way_;
  std::size_t heads_left_ = 0;
  std::uint64_t epoch_ = 0;
  Time step_began_{};
  Duration waited_{};
  std::optional<Time> lost_at_;
  bool taken_over_ = false;
  bool done_ = false;
  EventLog log_;
};

}  // namespace

EventLog run_lockstep(const Cluster& cluster, const Placement& placement,
                      const EventOptions& options) {
  return Lockstep(cluster, placement, options).run();
}

}  // namespace conclave::plan
