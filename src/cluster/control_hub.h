// The control connections of an agent: listens, calls, and carries messages. It knows keys, not
// what is said.
//
//   auto hub = TRY(ControlHub::create(identity, options, handlers));
//   const std::uint16_t port = TRY(hub->listen("", 0));
//   loop.watch(hub->fd(), [&] { hub->poll(clock.now()); });
//
// Who may stay is `trust`'s to say. Strangers may pair and nothing else: one small frame, a few
// seconds, a few at once. Limits are in HubLimits; at one the connection ends with a reason.
//
// Threads: one. Handlers run inside poll() and may call everything but poll().
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/ids.h"
#include "base/result.h"
#include "cluster/control_connection.h"
#include "cluster/membership.h"
#include "cluster/name_lookup.h"
#include "cluster/pairing.h"
#include "transport/transport.h"

namespace conclave::cluster {

using ConnectionId = Id<struct ConnectionTag, std::uint64_t>;  // never used twice

enum class Trust : std::uint8_t { kRefused, kStranger, kMember };

struct HubLimits {
  std::size_t connections_max = 256;
  std::size_t queue_max = std::size_t{64} << 20;  // bytes not yet taken by one peer
  // Incoming ones of which nobody knows yet who they are; a newer one takes the oldest's place.
  std::size_t unknown_max = 64;
  Duration opening_time = std::chrono::seconds(5);  // from the first packet to both Opens
  Duration user_timeout = std::chrono::seconds(2);  // sent and not acknowledged: lost
  std::size_t strangers_max = 8;
  std::size_t stranger_frame_max = 4096;
  Duration stranger_time = std::chrono::seconds(10);
  Duration stranger_interval = std::chrono::milliseconds(100);  // one new one in so long,
  int stranger_burst = 8;                                       // or so many after a pause
};

struct HubOptions {
  std::string build{};  // shown where versions differ
  std::uint32_t wire_version = kWireVersion;
  HubLimits limits{};
};

struct OpenedConnection {
  ConnectionId id;
  transport::Fingerprint peer{};
  Trust trust = Trust::kStranger;  // kMember where we called: it is whom we expected
  Purpose purpose = Purpose::kControl;
  bool outgoing = false;
  HostPort address;                // of the other end
  std::string build;               // the peer's, for people
  std::uint32_t wire_version = 0;  // both speak it
};

struct HubHandlers {
  std::function<Trust(const transport::Fingerprint&)> trust;
  // Messages may be sent from now on. A kBulk connection must be taken inside.
  std::function<void(const OpenedConnection&)> on_open;
  // `payload` is one message, valid during the call.
  std::function<void(ConnectionId, std::string_view payload)> on_message;
  // Once for every connection that was opened and not taken, and for every connect() that failed.
  std::function<void(ConnectionId, const std::string& reason)> on_close;
  // Incoming ones that were not opened. Anybody who reaches the port can cause these.
  std::function<void(const std::string& address, const std::string& reason)> on_refused;
};

// Whom a call expects: nobody else gets a byte.
using ExpectedPeer = std::variant<transport::Fingerprint, HeadPin>;

class ControlHub final {
 public:
  // All handlers must be set.
  static Result<std::unique_ptr<ControlHub>> create(const transport::Identity& identity,
                                                    HubOptions options, HubHandlers handlers);
  ControlHub(const ControlHub&) = delete;
  ControlHub& operator=(const ControlHub&) = delete;
  ~ControlHub();  // closes all; no handler is called

  // An empty host: all addresses, IPv4 and IPv6; port 0: any, and the answer says which. Once.
  Result<std::uint16_t> listen(const std::string& host, std::uint16_t port);

  // Tries every address of the host in turn, with `opening_time` for each.
  ConnectionId connect(const HostPort& to, const ExpectedPeer& expected, Purpose purpose, Time now);

  // All four ignore connections that are gone. Nothing is read of a connection after finish() and
  // close(); on_close comes with the next poll().
  void send(ConnectionId id, const google::protobuf::MessageLite& message);
  void finish(ConnectionId id,
              std::string reason);                  // when the peer has what was sent, or 5 s later
  void close(ConnectionId id, std::string reason);  // at once
  void close_peer(const transport::Fingerprint& peer, const std::string& reason);  // all of it
  // The stream of a kBulk connection, for another thread; the hub forgets it. Inside on_open.
  transport::SecureStream take(ConnectionId id);

  std::size_t n_connections() const { return entries_.size(); }

  // Becomes readable when poll() has something to do. Owned by the hub.
  int fd() const { return epoll_.get(); }
  // Never blocks. Call when fd() is readable and at least every 100 ms.
  void poll(Time now);

 private:
  struct Entry;
  using EntryPtr = std::unique_ptr<Entry>;

  ControlHub(const transport::Identity& identity, HubOptions options, HubHandlers handlers,
             NameLookup lookup);
  Result<void> start();

  Entry* find(ConnectionId id);
  Entry& add_entry(Time deadline);
  void watch(int fd, std::uint64_t tag, std::uint32_t events, int operation) const;
  void update_watch(Entry& entry);
  void wake() const;

  void take_incoming(Time now);
  void make_room();
  void start_connection(Entry& entry, transport::Socket socket);
  void take_lookups(Time now);
  void dial_next(Entry& entry, Time now);
  void dial_failed(Entry& entry, const std::string& reason, Time now);

  void on_ready(std::uint64_t tag, Time now);
  void serve(Entry& entry, Time now);
  void judge(Entry& entry, Time now);
  bool has_room_for_stranger(Time now);
  void report_open(Entry& entry);
  void check_deadlines(Time now);
  void on_deadline(Entry& entry, Time now);
  void sweep();

  transport::Identity identity_;
  HubOptions options_;
  HubHandlers handlers_;
  NameLookup lookup_;
  FileDescriptor epoll_;
  FileDescriptor event_;  // makes fd() readable
  transport::Socket listener_;
  std::optional<Time> listen_again_;  // descriptors ran out: the listener rests
  std::map<std::uint64_t, EntryPtr> entries_;
  std::set<std::uint64_t> busy_;  // have more to do than one turn allows
  std::uint64_t next_id_;
  Time next_stranger_{};
};

}  // namespace conclave::cluster
