#include "cluster/control_hub.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "cluster/control_hub_entry.h"

namespace conclave::cluster {
namespace {

using transport::Fingerprint;
using transport::SecureStream;
using transport::Socket;
using Step = ControlConnection::Step;

// What epoll says is ready; connections are known by their ids.
constexpr std::uint64_t kEventTag = 0;
constexpr std::uint64_t kLookupTag = 1;
constexpr std::uint64_t kListenerTag = 2;
constexpr std::uint64_t kFirstId = 16;

constexpr std::size_t kEventsMax = 128;  // of one poll()
constexpr int kIncomingMax = 32;         // taken in one poll()
constexpr int kStepsMax = 256;           // of one connection in one poll()
constexpr Duration kListenerRest = std::chrono::milliseconds(100);

// IPv4 peers of a listener for both families show as IPv6 addresses.
HostPort peer_address(int fd) {
  constexpr std::string_view kMapped = "::ffff:";
  auto address = parse_host_port(transport::peer_text(fd), 0);
  if (!address) return {};
  if (address->host.starts_with(kMapped) && address->host.find('.') != std::string::npos) {
    address->host.erase(0, kMapped.size());
  }
  return std::move(address).value();
}

bool is_expected(const ExpectedPeer& expected, const Fingerprint& shown) {
  if (const auto* pin = std::get_if<HeadPin>(&expected)) return matches(*pin, shown);
  return std::get<Fingerprint>(expected) == shown;
}

}  // namespace

// --- the owner's side -------------------------------------------------------------------------

ControlHub::ControlHub(const transport::Identity& identity, HubOptions options,
                       HubHandlers handlers, NameLookup lookup)
    : identity_(identity),
      options_(std::move(options)),
      handlers_(std::move(handlers)),
      lookup_(std::move(lookup)),
      next_id_(kFirstId) {}

ControlHub::~ControlHub() = default;

Result<std::unique_ptr<ControlHub>> ControlHub::create(const transport::Identity& identity,
                                                       HubOptions options, HubHandlers handlers) {
  CHECK(handlers.trust && handlers.on_open && handlers.on_message && handlers.on_close &&
        handlers.on_refused);
  std::unique_ptr<ControlHub> hub(
      new ControlHub(identity, std::move(options), std::move(handlers), TRY(NameLookup::create())));
  TRY(hub->start());
  return hub;
}

Result<void> ControlHub::start() {
  epoll_ = FileDescriptor(epoll_create1(EPOLL_CLOEXEC));
  event_ = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.open() || !event_.open()) {
    return unavailable("cannot watch connections: " + transport::error_text(errno));
  }
  watch(event_.get(), kEventTag, EPOLLIN, EPOLL_CTL_ADD);
  watch(lookup_.fd(), kLookupTag, EPOLLIN, EPOLL_CTL_ADD);
  return {};
}

Result<std::uint16_t> ControlHub::listen(const std::string& host, std::uint16_t port) {
  CHECK(!listener_.open());
  listener_ = TRY(transport::listen_on(host, port));
  watch(listener_.get(), kListenerTag, EPOLLIN, EPOLL_CTL_ADD);
  return transport::local_port(listener_.get());
}

ConnectionId ControlHub::connect(const HostPort& to, const ExpectedPeer& expected, Purpose purpose,
                                 Time now) {
  const bool full = entries_.size() >= options_.limits.connections_max;
  Entry& entry = add_entry(now + options_.limits.opening_time);
  entry.address = to;
  entry.dial =
      Entry::Dial{.to = to, .expected = expected, .purpose = purpose, .addresses = {}, .next = 0};
  if (full) {
    entry.end(std::to_string(options_.limits.connections_max) +
              " connections are open, which is the most");
  } else if (is_numeric_host(to.host)) {
    if (auto addresses = transport::resolve(to.host, to.port)) {
      entry.dial->addresses = std::move(addresses).value();
      dial_next(entry, now);
    } else {
      entry.end(addresses.error().message);
    }
  } else if (auto started = lookup_.start(entry.id.value, to.host, to.port); !started) {
    entry.end(started.error().message);
  }
  wake();
  return entry.id;
}

void ControlHub::send(ConnectionId id, const google::protobuf::MessageLite& message) {
  Entry* entry = find(id);
  if (entry == nullptr || !entry->opened()) return;
  entry->connection->send(message);
  update_watch(*entry);
  if (entry->over()) wake();
}

void ControlHub::finish(ConnectionId id, std::string reason) {
  Entry* entry = find(id);
  if (entry == nullptr) return;
  if (!entry->opened()) return close(id, std::move(reason));
  entry->connection->finish(std::move(reason));
  busy_.insert(id.value);
  wake();
}

void ControlHub::close(ConnectionId id, std::string reason) {
  if (Entry* entry = find(id)) entry->end(std::move(reason));
  wake();
}

void ControlHub::close_peer(const Fingerprint& peer, const std::string& reason) {
  for (const auto& [id, entry] : entries_) {
    const bool is = entry->connection && entry->connection->peer() == peer;
    const bool will_be = entry->dial && entry->dial->expected == ExpectedPeer(peer);
    if (is || will_be) entry->end(reason);
  }
  wake();
}

SecureStream ControlHub::take(ConnectionId id) {
  Entry* entry = find(id);
  CHECK(entry != nullptr && entry->opened() && !entry->over());
  if (entry->watched != 0) watch(entry->fd(), id.value, 0, EPOLL_CTL_DEL);
  entry->watched = 0;
  entry->taken = true;
  return entry->connection->take();
}

ControlHub::Entry* ControlHub::find(ConnectionId id) {
  const auto found = entries_.find(id.value);
  return found == entries_.end() ? nullptr : found->second.get();
}

ControlHub::Entry& ControlHub::add_entry(Time deadline) {
  auto entry = std::make_unique<Entry>();
  entry->id = ConnectionId{next_id_++};
  entry->deadline = deadline;
  return *entries_.emplace(entry->id.value, std::move(entry)).first->second;
}

void ControlHub::watch(int fd, std::uint64_t tag, std::uint32_t events, int operation) const {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  CHECK(epoll_ctl(epoll_.get(), operation, fd, &event) == 0);
}

void ControlHub::update_watch(Entry& entry) {
  if (entry.over()) {
    entry.watched = 0;  // closing a descriptor takes it out of the set
    return;
  }
  std::uint32_t events = EPOLLOUT;  // connecting
  if (entry.connection) events = EPOLLIN | (entry.connection->wants_write() ? EPOLLOUT : 0u);
  if (events == entry.watched) return;
  watch(entry.fd(), entry.id.value, events, entry.watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD);
  entry.watched = events;
}

void ControlHub::wake() const { eventfd_write(event_.get(), 1); }

// --- the loop's side --------------------------------------------------------------------------

void ControlHub::poll(Time now) {
  eventfd_t count = 0;
  eventfd_read(event_.get(), &count);
  std::array<epoll_event, kEventsMax> events{};
  const int n = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < n; ++i) on_ready(events[static_cast<std::size_t>(i)].data.u64, now);
  for (const std::uint64_t id : std::exchange(busy_, {})) on_ready(id, now);
  check_deadlines(now);
  sweep();
  if (!busy_.empty()) wake();
}

void ControlHub::on_ready(std::uint64_t tag, Time now) {
  if (tag == kEventTag) return;
  if (tag == kLookupTag) return take_lookups(now);
  if (tag == kListenerTag) return take_incoming(now);
  Entry* entry = find(ConnectionId{tag});
  if (entry == nullptr || entry->over()) return;
  if (entry->connection) return serve(*entry, now);
  if (!entry->dial->socket.open()) return;
  if (const int error = transport::connect_error(entry->fd()); error != 0) {
    return dial_failed(*entry, transport::error_text(error), now);
  }
  entry->address = peer_address(entry->fd());
  entry->watched = 0;
  watch(entry->fd(), tag, 0, EPOLL_CTL_DEL);
  start_connection(*entry, std::move(entry->dial->socket));
  serve(*entry, now);
}

void ControlHub::take_incoming(Time now) {
  for (int i = 0; i < kIncomingMax; ++i) {
    Socket socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.open()) {
      if (transport::would_block(errno)) return;
      if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) continue;
      // It stays readable: watching it would only burn time.
      handlers_.on_refused("(unknown)", "no connection taken: " + transport::error_text(errno));
      watch(listener_.get(), kListenerTag, 0, EPOLL_CTL_MOD);
      listen_again_ = now + kListenerRest;
      return;
    }
    make_room();
    const HostPort address = peer_address(socket.get());
    if (entries_.size() >= options_.limits.connections_max) {
      handlers_.on_refused(to_text(address), std::to_string(options_.limits.connections_max) +
                                                 " connections are open, which is the most");
      continue;
    }
    transport::set_link_options(socket.get(), options_.limits.user_timeout);
    Entry& entry = add_entry(now + options_.limits.opening_time);
    entry.address = address;
    start_connection(entry, std::move(socket));
    update_watch(entry);
  }
}

// A crowd that says nothing must not keep a member out, which is known within milliseconds.
void ControlHub::make_room() {
  std::size_t n_unknown = 0;
  Entry* oldest = nullptr;
  for (const auto& [id, entry] : entries_) {
    if (!entry->incoming() || entry->opened() || entry->over()) continue;
    ++n_unknown;
    if (oldest == nullptr) oldest = entry.get();
  }
  const bool full = entries_.size() >= options_.limits.connections_max;
  if (oldest == nullptr || (n_unknown < options_.limits.unknown_max && !full)) return;
  handlers_.on_refused(to_text(oldest->address), "did not open before others came");
  entries_.erase(oldest->id.value);
}

void ControlHub::start_connection(Entry& entry, Socket socket) {
  ControlConnection::Options options{.side = ControlConnection::Side::kAcceptor,
                                     .purpose = Purpose::kControl,
                                     .wire_version = options_.wire_version,
                                     .build = options_.build,
                                     .queue_max = options_.limits.queue_max};
  // Whoever calls gets through TLS, so that the refusal can say why.
  SecureStream::Accept accept = [](const Fingerprint&) { return true; };
  if (entry.dial) {
    options.side = ControlConnection::Side::kCaller;
    options.purpose = entry.dial->purpose;
    accept = [expected = entry.dial->expected](const Fingerprint& shown) {
      return is_expected(expected, shown);
    };
  }
  entry.connection.emplace(
      SecureStream::tls(socket.release(), identity_, options.side, std::move(accept)),
      std::move(options));
}

// --- calls ------------------------------------------------------------------------------------

void ControlHub::take_lookups(Time now) {
  for (NameLookup::Found& found : lookup_.take()) {
    Entry* entry = find(ConnectionId{found.id});
    if (entry == nullptr || entry->over()) continue;
    if (!found.addresses) {
      entry->end(found.addresses.error().message);
      continue;
    }
    entry->dial->addresses = std::move(found.addresses).value();
    dial_next(*entry, now);
  }
}

void ControlHub::dial_next(Entry& entry, Time now) {
  Entry::Dial& dial = *entry.dial;
  while (dial.next < dial.addresses.size()) {
    dial.socket =
        transport::start_connect(dial.addresses[dial.next++], options_.limits.user_timeout);
    if (dial.socket.open()) {
      entry.deadline = now + options_.limits.opening_time;
      entry.watched = 0;
      return update_watch(entry);
    }
    entry.end_reason = transport::error_text(errno);
  }
  entry.end(to_text(dial.to) + ": " + entry.end_reason);
}

void ControlHub::dial_failed(Entry& entry, const std::string& reason, Time now) {
  entry.end_reason = reason;
  entry.dial->socket.reset();
  entry.connection.reset();
  dial_next(entry, now);
}

// --- connections ------------------------------------------------------------------------------

void ControlHub::serve(Entry& entry, Time now) {
  for (int i = 0; i < kStepsMax; ++i) {
    switch (entry.connection->advance()) {
      case Step::kIdle:
        return update_watch(entry);
      case Step::kMore:
        busy_.insert(entry.id.value);
        return update_watch(entry);
      case Step::kAsked:
        judge(entry, now);
        break;
      case Step::kOpened:
        report_open(entry);
        break;
      case Step::kFrame:
        handlers_.on_message(entry.id, entry.connection->payload());
        break;
      case Step::kClosed:
        // Another address of the name may be the machine that we mean.
        if (entry.dial && !entry.ended && !entry.taken && !entry.connection->peer()) {
          const std::string reason = entry.connection->reason();
          dial_failed(entry, reason, now);
        }
        return;
    }
  }
  busy_.insert(entry.id.value);
  update_watch(entry);
}

void ControlHub::judge(Entry& entry, Time now) {
  ControlConnection& connection = *entry.connection;
  CHECK(connection.peer().has_value());
  if (*connection.peer() == identity_.fingerprint()) {
    return connection.refuse("this machine called itself");
  }
  entry.trust = handlers_.trust(*connection.peer());
  switch (entry.trust) {
    case Trust::kRefused:
      return connection.refuse("this pool does not want this machine");
    case Trust::kStranger:
      if (connection.purpose() != Purpose::kPair) {
        return connection.refuse(
            "this machine is no member of the pool; get a code with `conclave pair` on the head");
      }
      if (!has_room_for_stranger(now)) {
        return connection.refuse("too many machines want to pair at once; try again soon");
      }
      entry.admitted_stranger = true;
      entry.deadline = now + options_.limits.stranger_time;
      connection.limit_frames(options_.limits.stranger_frame_max, 1);
      break;
    case Trust::kMember:
      break;
  }
  connection.accept();
}

bool ControlHub::has_room_for_stranger(Time now) {
  const HubLimits& limits = options_.limits;
  const auto n_strangers = std::count_if(entries_.begin(), entries_.end(), [](const auto& item) {
    return item.second->admitted_stranger && !item.second->over();
  });
  if (static_cast<std::size_t>(n_strangers) >= limits.strangers_max) return false;
  // One every interval, and what was not used is kept for stranger_burst of them.
  if (now + limits.stranger_interval * (limits.stranger_burst - 1) < next_stranger_) return false;
  next_stranger_ = std::max(next_stranger_, now) + limits.stranger_interval;
  return true;
}

void ControlHub::report_open(Entry& entry) {
  const ControlConnection& connection = *entry.connection;
  if (entry.dial) entry.trust = Trust::kMember;
  if (!entry.admitted_stranger) entry.deadline.reset();
  handlers_.on_open(
      {.id = entry.id,
       .peer = *connection.peer(),
       .trust = entry.trust,
       .purpose = connection.purpose(),
       .outgoing = entry.dial.has_value(),
       .address = entry.address,
       .build = connection.peer_build(),
       .wire_version = std::min(options_.wire_version, connection.peer_wire_version())});
  if (connection.purpose() == Purpose::kBulk && !entry.taken) entry.end("nobody took the stream");
}

// --- time and ends ----------------------------------------------------------------------------

void ControlHub::check_deadlines(Time now) {
  if (listen_again_ && now >= *listen_again_) {
    listen_again_.reset();
    watch(listener_.get(), kListenerTag, EPOLLIN, EPOLL_CTL_MOD);
  }
  for (const auto& [id, entry] : entries_) {
    if (entry->over()) continue;
    if (entry->connection && entry->connection->finishing() && !entry->finish_timed) {
      entry->finish_timed = true;
      entry->deadline = now + options_.limits.opening_time;
    }
    if (entry->deadline && now >= *entry->deadline) on_deadline(*entry, now);
  }
}

void ControlHub::on_deadline(Entry& entry, Time now) {
  if (entry.connection && entry.connection->finishing()) {
    return entry.connection->close("");  // its reason is known
  }
  if (entry.admitted_stranger) return entry.end("a stranger's time is over");
  const std::string reason =
      "did not open within " +
      std::to_string(static_cast<int>(seconds(options_.limits.opening_time))) + " s";
  const bool reached = entry.connection && entry.connection->peer();
  if (entry.incoming() || reached) return entry.end(reason);
  dial_failed(entry, reason, now);
}

void ControlHub::sweep() {
  std::vector<EntryPtr> gone;
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (it->second->over()) {
      gone.push_back(std::move(it->second));
      it = entries_.erase(it);
    } else {
      ++it;
    }
  }
  for (const EntryPtr& entry : gone) {
    if (entry->taken) continue;
    if (entry->incoming() && !entry->opened()) {
      handlers_.on_refused(to_text(entry->address), entry->reason());
    } else {
      handlers_.on_close(entry->id, entry->reason());
    }
  }
}

}  // namespace conclave::cluster
