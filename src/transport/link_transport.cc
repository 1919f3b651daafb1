#include "transport/link_transport.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "transport/waiting.h"

namespace conclave::transport {
namespace {

constexpr Time kPast{};
constexpr Duration kCheckPeriod = std::chrono::milliseconds(250);
// A turn of somebody else's that is no mere message: then asking is off for a while. Who sleeps is
// woken before those who compute, who yields comes after them.
constexpr Duration kTurn = std::chrono::microseconds(500);
constexpr Duration kCrowdedFor = std::chrono::milliseconds(100);

}  // namespace

LinkTransport::LinkTransport(const Clock& clock, Rank rank,
                             std::vector<std::unique_ptr<Link>> links, Duration spin, Watch* watch)
    : clock_(clock),
      rank_(rank),
      links_(std::move(links)),
      spin_(spin),
      watch_(watch),
      stats_(links_.size()) {
  CHECK(rank < links_.size());
  for (std::size_t i = 0; i < links_.size(); ++i) CHECK((links_[i] == nullptr) == (i == rank));
}

void LinkTransport::send(Rank to, const wire::DataHeader& header,
                         std::span<const std::span<const std::byte>> parts) {
  CHECK(to < links_.size() && to != rank_);
  links_[to]->send(header, parts);
}

void LinkTransport::write_queued() {
  for (const auto& link : links_) {
    if (link != nullptr && link->has_queued()) link->write_queued();
  }
}

std::optional<Received> LinkTransport::read_any() {
  for (std::size_t i = 0; i < links_.size(); ++i) {
    const std::size_t at = (next_ + i) % links_.size();
    if (links_[at] == nullptr) continue;
    if (const auto message = links_[at]->read()) {
      next_ = at + 1;
      return Received{.kind = Received::Kind::kMessage, .message = *message};
    }
  }
  return std::nullopt;
}

// Remembers the first link that is lost.
bool LinkTransport::note_loss() {
  for (const auto& link : links_) {
    if (!lost_ && link != nullptr && link->lost()) lost_ = link->peer();
  }
  return lost_.has_value();
}

std::optional<Received> LinkTransport::epoch_over() const {
  if (lost_) {
    return Received{
        .kind = Received::Kind::kPeerLost, .lost = *lost_, .reason = links_[*lost_]->reason()};
  }
  if (interrupted_) return Received{.kind = Received::Kind::kInterrupted};
  return std::nullopt;
}

// False: somebody else had a turn.
bool LinkTransport::yield_briefly(Time now) {
  std::this_thread::yield();
  const Time after = clock_.now();
  if (after - now < kTurn) return true;
  crowded_until_ = after + kCrowdedFor;
  return false;
}

Received LinkTransport::receive(Time deadline) {
  note_loss();
  if (const auto over = epoch_over()) return *over;
  std::optional<Time> spin_until;  // set when there is nothing to read for the first time
  for (;;) {
    write_queued();
    if (const auto received = read_any()) return *received;
    if (note_loss()) return *epoch_over();

    const Time now = clock_.now();
    if (!spin_until) spin_until = now < crowded_until_ ? now : now + spin_;
    if (now < std::min(deadline, *spin_until)) {
      if (!yield_briefly(now)) spin_until = now;
      continue;
    }
    wait(now < deadline ? deadline : kPast, true);
    if (interrupted_) return *epoch_over();
    if (now >= deadline) return Received{.kind = Received::Kind::kDeadline};
  }
}

// Returns when anything may have changed: something to read, where that is wanted, or room to
// write.
void LinkTransport::wait(Time deadline, bool to_read) {
  fds_.clear();
  waiting_.clear();
  for (const auto& link : links_) {
    if (link == nullptr || link->lost() || !(to_read || link->has_queued())) continue;
    if (!link->prepare_wait(to_read)) deadline = kPast;
    fds_.push_back({link->fd(), link->poll_events(to_read), 0});
    waiting_.push_back(link.get());
  }
  add_watch(fds_, watch_);
  poll_until(fds_, clock_, std::min(deadline, clock_.now() + kCheckPeriod));
  for (std::size_t i = 0; i < waiting_.size(); ++i) waiting_[i]->finish_wait(fds_[i].revents != 0);
  interrupted_ = interrupted_ || watch_interrupts(fds_, watch_);
  if (clock_.now() < next_check_) return;
  next_check_ = clock_.now() + kCheckPeriod;
  for (Link* link : waiting_) link->check_silence();
}

void LinkTransport::flush(Time deadline) {
  const auto queued = [](const auto& link) { return link != nullptr && link->has_queued(); };
  for (;;) {
    write_queued();
    if (note_loss() || interrupted_ || clock_.now() >= deadline) return;
    if (std::none_of(links_.begin(), links_.end(), queued)) return;
    wait(deadline, false);
  }
}

std::span<const LinkStats> LinkTransport::stats() const {
  for (std::size_t i = 0; i < links_.size(); ++i) {
    if (links_[i] != nullptr) stats_[i] = links_[i]->stats();
  }
  return stats_;
}

}  // namespace conclave::transport
