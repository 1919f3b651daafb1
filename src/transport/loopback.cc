#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "transport/transport.h"
#include "transport/waiting.h"

namespace conclave::transport {
namespace {

// How long a change of the watch may go unseen, since a condition variable knows no descriptors.
constexpr Duration kWatchPeriod = std::chrono::milliseconds(2);

struct Parcel {
  wire::DataHeader header;
  std::vector<std::byte> payload;
};

// One epoch. Everything is guarded by the fabric's mutex.
struct Group {
  explicit Group(std::size_t n) : joined(n), gone(n), killed(n), boxes(n * n) {}

  std::deque<Parcel>& box(std::size_t from, std::size_t to) {
    return boxes[from * joined.size() + to];
  }

  std::vector<bool> joined;
  std::vector<bool> gone;  // killed, or its transport was destroyed
  std::vector<bool> killed;
  std::vector<std::deque<Parcel>> boxes;  // [from, to]
};

bool asks_to_stop(Watch* watch) {
  if (watch == nullptr) return false;
  std::vector<pollfd> fds;
  add_watch(fds, watch);
  poll_until(fds, RealClock(), Time{});
  return watch_interrupts(fds, watch);
}

}  // namespace

struct LoopbackFabric::State {
  std::mutex mutex;
  std::condition_variable changed;
  // By cluster and epoch. Shared: with the transports of the epoch.
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::shared_ptr<Group>> groups;
  std::shared_ptr<Group> newest;

  // Waits for a change until the deadline, or for one period of the watch.
  void wait(std::unique_lock<std::mutex>& lock, Time deadline, bool watched) {
    if (watched) deadline = std::min(deadline, std::chrono::steady_clock::now() + kWatchPeriod);
    if (deadline == Time::max()) {
      changed.wait(lock);
    } else {
      changed.wait_until(lock, deadline);
    }
  }
};

class LoopbackFabric::Member final : public Transport {
 public:
  Member(std::shared_ptr<State> state, std::shared_ptr<Group> group, const GroupSpec& spec,
         Watch* watch)
      : state_(std::move(state)),
        group_(std::move(group)),
        rank_(spec.rank),
        epoch_(spec.epoch),
        watch_(watch),
        next_sent_(spec.ranks.size()),
        stats_(spec.ranks.size()) {}
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;
  ~Member() override {
    const std::lock_guard lock(state_->mutex);
    group_->gone[rank_] = true;
    state_->changed.notify_all();
  }

  Rank rank() const override { return rank_; }
  std::size_t n_ranks() const override { return stats_.size(); }
  void flush(Time /*deadline*/) override {}
  std::span<const LinkStats> stats() const override { return stats_; }

  void send(Rank to, const wire::DataHeader& header,
            std::span<const std::span<const std::byte>> parts) override {
    CHECK(to < stats_.size() && to != rank_);
    Parcel parcel{.header = header, .payload = {}};
    for (const auto part : parts) {
      parcel.payload.insert(parcel.payload.end(), part.begin(), part.end());
    }
    CHECK(parcel.payload.size() <= wire::kDataSizeMax);
    parcel.header.epoch = epoch_;
    parcel.header.sequence = next_sent_[to]++;
    parcel.header.size = static_cast<std::uint32_t>(parcel.payload.size());
    stats_[to].messages_sent += 1;
    stats_[to].bytes_sent += wire::kDataHeaderSize + parcel.payload.size();

    const std::lock_guard lock(state_->mutex);
    if (group_->killed[rank_]) return;
    group_->box(rank_, to).push_back(std::move(parcel));
    state_->changed.notify_all();
  }

  Received receive(Time deadline) override {
    for (;;) {
      if (interrupted_ || asks_to_stop(watch_)) {
        interrupted_ = true;
        return {.kind = Received::Kind::kInterrupted};
      }
      std::unique_lock lock(state_->mutex);
      if (auto received = look()) return *received;
      if (std::chrono::steady_clock::now() >= deadline) return {.kind = Received::Kind::kDeadline};
      state_->wait(lock, deadline, watch_ != nullptr);
    }
  }

 private:
  std::optional<Received> look() {
    if (group_->killed[rank_]) return Received{.kind = Received::Kind::kInterrupted};
    for (std::size_t i = 0; !lost_ && i < stats_.size(); ++i) {
      const std::size_t from = (next_ + i) % stats_.size();
      if (auto& box = group_->box(from, rank_); !box.empty()) {
        current_ = std::move(box.front());
        box.pop_front();
        next_ = from + 1;
        return taken(static_cast<Rank>(from));
      }
    }
    for (std::size_t from = 0; !lost_ && from < stats_.size(); ++from) {
      if (from != rank_ && group_->gone[from]) lost_ = static_cast<Rank>(from);
    }
    if (!lost_) return std::nullopt;
    return Received{
        .kind = Received::Kind::kPeerLost, .lost = *lost_, .reason = "connection closed"};
  }

  Received taken(Rank from) {
    stats_[from].messages_received += 1;
    stats_[from].bytes_received += wire::kDataHeaderSize + current_.payload.size();
    return {.kind = Received::Kind::kMessage,
            .message = {.from = from, .header = current_.header, .payload = current_.payload}};
  }

  std::shared_ptr<State> state_;  // shared with the fabric and the peers, as is the group
  std::shared_ptr<Group> group_;
  Rank rank_;
  std::uint32_t epoch_;
  Watch* watch_;
  std::vector<std::uint32_t> next_sent_;
  std::vector<LinkStats> stats_;
  Parcel current_;        // whose payload was given out last
  std::size_t next_ = 0;  // the peer that is asked first
  std::optional<Rank> lost_;
  bool interrupted_ = false;
};

LoopbackFabric::LoopbackFabric() : state_(std::make_shared<State>()) {}
LoopbackFabric::~LoopbackFabric() = default;

Result<std::unique_ptr<Transport>> LoopbackFabric::join(const GroupSpec& spec, Time deadline,
                                                        Watch* watch) {
  const std::size_t n = spec.ranks.size();
  if (n > kRanksMax || spec.rank >= n) return invalid_input("no such rank in the group");
  std::unique_lock lock(state_->mutex);
  auto& group = state_->groups[{spec.cluster, spec.epoch}];
  if (group == nullptr) state_->newest = group = std::make_shared<Group>(n);
  if (group->joined.size() != n || group->joined[spec.rank]) {
    return invalid_input("the epoch has another size, or the rank has joined it already");
  }
  const std::shared_ptr<Group> joined = group;
  joined->joined[spec.rank] = true;
  state_->changed.notify_all();
  while (std::find(joined->joined.begin(), joined->joined.end(), false) != joined->joined.end()) {
    lock.unlock();
    const bool stop = asks_to_stop(watch);
    lock.lock();
    if (stop || std::chrono::steady_clock::now() >= deadline) {
      const auto missing = std::find(joined->joined.begin(), joined->joined.end(), false);
      joined->joined[spec.rank] = false;
      if (!stop && watch != nullptr) {
        watch->absent(static_cast<Rank>(missing - joined->joined.begin()));
      }
      return unavailable(stop ? "joining the group was interrupted"
                              : "rank " + std::to_string(missing - joined->joined.begin()) +
                                    " did not join");
    }
    if (std::find(joined->joined.begin(), joined->joined.end(), false) == joined->joined.end()) {
      break;
    }
    state_->wait(lock, deadline, watch != nullptr);
  }
  lock.unlock();
  return std::unique_ptr<Transport>(std::make_unique<Member>(state_, joined, spec, watch));
}

void LoopbackFabric::kill(Rank rank) {
  const std::lock_guard lock(state_->mutex);
  CHECK(state_->newest != nullptr && rank < state_->newest->gone.size());
  state_->newest->gone[rank] = true;
  state_->newest->killed[rank] = true;
  state_->changed.notify_all();
}

}  // namespace conclave::transport
