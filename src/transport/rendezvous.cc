#include "transport/rendezvous.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "transport/waiting.h"

namespace conclave::transport {
namespace {

// Between calls to a rank: doubled from the first to the last, because a rank that is just about
// to listen is there in a moment, and one that refuses goes on doing so for a while.
constexpr Duration kPauseFirst = std::chrono::milliseconds(20);
constexpr Duration kPauseLast = std::chrono::milliseconds(320);

// A guest that says nothing of use for so long is turned away.
constexpr Duration kGuestPatience = std::chrono::seconds(2);
constexpr std::size_t kGuestsMax = 128;  // above it, the oldest is turned away

std::string rank_text(Rank rank, const Endpoint& endpoint) {
  return "rank " + std::to_string(rank) + " (" + endpoint.host + ":" +
         std::to_string(endpoint.port) + ")";
}

}  // namespace

Rendezvous::Rendezvous(const Clock& clock, const Identity& identity, const TcpOptions& options,
                       const Socket& listener, const GroupSpec& spec)
    : clock_(clock),
      identity_(identity),
      options_(options),
      listener_(listener),
      spec_(spec),
      links_(spec.ranks.size()) {}

Result<std::vector<std::unique_ptr<Link>>> Rendezvous::run(Time deadline, Watch* watch) {
  const Time start = clock_.now();
  TRY(resolve_all(watch));
  while (!complete()) {
    const Time now = clock_.now();
    if (now >= deadline) {
      if (watch != nullptr) watch->absent(first_missing());
      return late(now - start);
    }
    start_calls(now);
    if (wait(next_event(deadline), watch)) return unavailable("joining the group was interrupted");
    const Time after = clock_.now();
    for (Call& call : calls_) step_call(call, after);
    step_guests(after);
    take_guests(after);
  }
  return std::move(links_);
}

Result<void> Rendezvous::resolve_all(Watch* watch) {
  for (Rank peer = 0; peer < spec_.rank; ++peer) {
    const Endpoint& endpoint = spec_.ranks[peer];
    auto addresses = resolve(endpoint.host, endpoint.port);
    if (!addresses) {
      if (watch != nullptr) watch->absent(peer);
      return unavailable(rank_text(peer, endpoint) + ": " + addresses.error().message);
    }
    Call& call = calls_.emplace_back();
    call.peer = peer;
    call.addresses = std::move(addresses).value();
  }
  return {};
}

bool Rendezvous::complete() const {
  const auto connected =
      std::count_if(links_.begin(), links_.end(), [](const auto& link) { return link != nullptr; });
  return static_cast<std::size_t>(connected) + 1 == links_.size();
}

void Rendezvous::start_calls(Time now) {
  for (Call& call : calls_) {
    if (links_[call.peer] != nullptr || call.greeting != nullptr || now < call.retry_at) continue;
    const Address& address = call.addresses[call.next_address++ % call.addresses.size()];
    Socket socket = start_connect(address, options_.user_timeout);
    if (!socket.open()) {
      retry_later(call, now, error_text(errno));
      continue;
    }
    call.greeting = std::make_unique<Greeting>(
        Greeting::call(std::move(socket), call.peer, spec_, identity_, options_.shared_memory));
  }
}

void Rendezvous::retry_later(Call& call, Time now, std::string reason) {
  call.greeting.reset();
  call.reason = std::move(reason);
  call.pause = std::clamp(call.pause * 2, kPauseFirst, kPauseLast);
  call.retry_at = now + call.pause;
}

Time Rendezvous::next_event(Time deadline) const {
  for (const Call& call : calls_) {
    if (links_[call.peer] == nullptr && call.greeting == nullptr) {
      deadline = std::min(deadline, call.retry_at);
    }
  }
  for (const Guest& guest : guests_) deadline = std::min(deadline, guest.until);
  return deadline;
}

// True: the watch interrupts. Everything is stepped afterwards: there are few connections, and a
// step of one that is not ready costs a system call.
bool Rendezvous::wait(Time until, Watch* watch) {
  fds_.clear();
  fds_.push_back({listener_.get(), POLLIN, 0});
  for (const Call& call : calls_) {
    if (call.greeting == nullptr) continue;
    fds_.push_back({call.greeting->fd(), call.greeting->poll_events(), 0});
  }
  for (const Guest& guest : guests_) {
    fds_.push_back({guest.greeting->fd(), guest.greeting->poll_events(), 0});
  }
  add_watch(fds_, watch);
  poll_until(fds_, clock_, until);
  return watch_interrupts(fds_, watch);
}

void Rendezvous::step_call(Call& call, Time now) {
  if (call.greeting == nullptr) return;
  switch (call.greeting->step()) {
    case Greeting::State::kWorking:
      return;
    case Greeting::State::kDone:
      take_link(*call.greeting);
      call.greeting.reset();
      return;
    case Greeting::State::kFailed:
      return retry_later(call, now, call.greeting->reason());
  }
}

bool Rendezvous::guest_stays(Guest& guest, Time now) {
  switch (guest.greeting->step()) {
    case Greeting::State::kWorking:
      if (now < guest.until) return true;
      refuse(guest.address, "it did not say who it is in time");
      return false;
    case Greeting::State::kDone:
      take_link(*guest.greeting);
      return false;
    case Greeting::State::kFailed:
      refuse(guest.address, guest.greeting->reason());
      return false;
  }
  return false;
}

void Rendezvous::step_guests(Time now) {
  std::erase_if(guests_, [this, now](Guest& guest) { return !guest_stays(guest, now); });
}

void Rendezvous::take_guests(Time now) {
  for (;;) {
    Socket socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.open()) return;
    if (guests_.size() == kGuestsMax) {
      refuse(guests_.front().address, "too many connections that do not say who they are");
      guests_.erase(guests_.begin());
    }
    set_link_options(socket.get(), options_.user_timeout);
    Guest guest;
    guest.address = peer_text(socket.get());
    guest.until = now + kGuestPatience;
    guest.greeting = std::make_unique<Greeting>(
        Greeting::accept(std::move(socket), spec_, identity_, options_.shared_memory));
    guests_.push_back(std::move(guest));
  }
}

// A rank that calls again has given its earlier call up, so the newest counts.
void Rendezvous::take_link(Greeting& greeting) {
  const Link::Limits limits{.queue_bytes_max = options_.queue_bytes_max,
                            .silence_max = options_.user_timeout};
  auto stream = greeting.take_stream();
  // From here on the link looks at it itself, because a rank that computes does not read.
  if (stream) set_user_timeout(stream->fd(), Duration::zero());
  links_[greeting.peer()] = std::make_unique<Link>(greeting.peer(), spec_.epoch, limits,
                                                   std::move(stream), greeting.take_lane());
}

void Rendezvous::refuse(const std::string& address, const std::string& reason) const {
  if (options_.on_refused)
    options_.on_refused("connection from " + address + " refused: " + reason);
}

Rank Rendezvous::first_missing() const {
  Rank rank = 0;
  while (rank == spec_.rank || links_[rank] != nullptr) ++rank;
  return rank;
}

Error Rendezvous::late(Duration after) const {
  std::string missing;
  for (std::size_t i = 0; i < links_.size(); ++i) {
    if (links_[i] != nullptr || i == spec_.rank) continue;
    if (!missing.empty()) missing += "; ";
    missing += rank_text(static_cast<Rank>(i), spec_.ranks[i]);
    missing += i < calls_.size() ? ": " + calls_[i].reason : ": it did not call";
  }
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(after).count();
  return unavailable("not here after " + std::to_string(ms) + " ms: " + missing);
}

}  // namespace conclave::transport
