#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <bit>
#include <deque>
#include <utility>

#include "base/little_endian.h"
#include "transport/transport.h"

namespace conclave::transport {
namespace {

constexpr std::size_t kStampSize = 8;

// poll() may oversleep by the thread's timer slack, 50 us unless changed: a large part of the
// delays of fast links.
constexpr unsigned long kTimerSlackNs = 1;

std::uint64_t nanoseconds_of(Time time) {
  const auto since = std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch());
  return static_cast<std::uint64_t>(since.count());
}

Time time_of(std::uint64_t nanoseconds) {
  const auto since = std::chrono::nanoseconds(static_cast<std::int64_t>(nanoseconds));
  return Time(std::chrono::duration_cast<Duration>(since));
}

// A message that has arrived too early.
struct Held {
  Time due{};
  Rank from = 0;
  wire::DataHeader header;
  std::vector<std::byte> payload;
};

class DelayedTransport final : public Transport {
 public:
  DelayedTransport(std::unique_ptr<Transport> inner, const Clock& clock, Duration delay)
      : inner_(std::move(inner)), clock_(clock), delay_(delay) {
    prctl(PR_SET_TIMERSLACK, kTimerSlackNs, 0, 0, 0);
  }

  Rank rank() const override { return inner_->rank(); }
  std::size_t n_ranks() const override { return inner_->n_ranks(); }
  void flush(Time deadline) override { inner_->flush(deadline); }
  std::span<const LinkStats> stats() const override { return inner_->stats(); }

  void send(Rank to, const wire::DataHeader& header,
            std::span<const std::span<const std::byte>> parts) override {
    CHECK(parts.size() <= kPartsMax);
    std::array<std::byte, kStampSize> stamp;
    put_little_endian(stamp, 0, nanoseconds_of(clock_.now()));
    std::array<std::span<const std::byte>, kPartsMax + 1> all;
    *std::copy(parts.begin(), parts.end(), all.begin()) = stamp;
    inner_->send(to, header, std::span(all).first(parts.size() + 1));
  }

  Received receive(Time deadline) override {
    for (;;) {
      const bool holds = !held_.empty();
      if (holds && held_.front().due <= clock_.now()) return release();
      Received received = inner_->receive(holds ? std::min(deadline, held_.front().due) : deadline);
      if (received.kind == Received::Kind::kMessage) {
        if (auto refused = hold(received.message)) return *refused;
        continue;
      }
      const bool early = received.kind == Received::Kind::kDeadline && clock_.now() < deadline;
      if (!early) return received;
    }
  }

 private:
  // Keeps it in order of being due; of one sender, that is the order of sending.
  std::optional<Received> hold(const Message& message) {
    if (message.payload.size() < kStampSize) {
      return Received{.kind = Received::Kind::kPeerLost,
                      .lost = message.from,
                      .reason = "it sends without the time of sending"};
    }
    const auto body = message.payload.first(message.payload.size() - kStampSize);
    Held held{
        .due = time_of(get_little_endian<std::uint64_t>(message.payload, body.size())) + delay_,
        .from = message.from,
        .header = message.header,
        .payload = {body.begin(), body.end()}};
    held.header.size = static_cast<std::uint32_t>(body.size());
    const auto later = [](Time due, const Held& other) { return due < other.due; };
    held_.insert(std::upper_bound(held_.begin(), held_.end(), held.due, later), std::move(held));
    return std::nullopt;
  }

  Received release() {
    current_ = std::move(held_.front());
    held_.pop_front();
    return {
        .kind = Received::Kind::kMessage,
        .message = {.from = current_.from, .header = current_.header, .payload = current_.payload}};
  }

  std::unique_ptr<Transport> inner_;
  const Clock& clock_;
  Duration delay_;
  std::deque<Held> held_;  // by due
  Held current_;           // whose payload was given out last
};

}  // namespace

std::unique_ptr<Transport> delayed(std::unique_ptr<Transport> inner, const Clock& clock,
                                   Duration delay) {
  return std::make_unique<DelayedTransport>(std::move(inner), clock, delay);
}

Result<std::unique_ptr<Transport>> DelayedFabric::join(const GroupSpec& spec, Time deadline,
                                                       Watch* watch) {
  return delayed(TRY(inner_.join(spec, deadline, watch)), clock_, delay_);
}

}  // namespace conclave::transport
