// Messages between the ranks of one placement. One Transport lives for one epoch.
//
//   auto fabric = TRY(TcpFabric::listen(clock, identity, options));   // fabric->port()
//   std::unique_ptr<Transport> transport = TRY(fabric->join(spec, deadline, &watch));
//   transport->send(to, header, parts);               // never blocks
//   const Received r = transport->receive(deadline);  // the only call that waits
//
// A message arrives whole, once and in the order of sending, or its sender is lost: a gap, a
// repeated or damaged header, an end of the connection are all reported as kPeerLost. Headers of
// another epoch are dropped. Once a peer is lost, every later receive() says so; likewise once the
// watch has interrupted.
//
// Fabrics: TcpFabric between processes, TLS 1.3 with pinned keys or clear, and shared memory
// between ranks of one machine; LoopbackFabric between threads of a test; DelayedFabric, which
// makes another one slower. secure_stream.h and socket.h are for connections that are not between
// ranks.
//
// Threads: one thread calls a Transport. A SecureStream likewise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "transport/identity.h"
#include "transport/secure_stream.h"
#include "transport/socket.h"
#include "wire/wire.h"

namespace conclave::transport {

using Rank = std::uint16_t;
inline constexpr std::size_t kRanksMax = 64;
inline constexpr std::size_t kPartsMax = 128;  // of one send()

struct Message {
  Rank from = 0;
  wire::DataHeader header{};
  std::span<const std::byte> payload{};  // 8-byte aligned; valid until the next receive()
};

struct Received {
  enum class Kind : std::uint8_t { kMessage, kDeadline, kInterrupted, kPeerLost };
  Kind kind = Kind::kDeadline;
  Message message{};  // kMessage
  Rank lost = 0;      // kPeerLost
  std::string
      reason{};  // kPeerLost: "connection closed", "513 MiB queued that it did not take", ...
};

struct LinkStats {  // of one peer; bytes are those of headers and payloads
  std::uint64_t messages_sent = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t messages_received = 0;
  std::uint64_t bytes_received = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual Rank rank() const = 0;
  virtual std::size_t n_ranks() const = 0;
  // `header.sequence`, `.size` and `.epoch` are the transport's to fill. The parts, at most
  // kPartsMax and wire::kDataSizeMax bytes, are sent one after the other as one payload; their
  // bytes are copied or written before this returns. What the link does not take at once is queued
  // and leaves during receive(); a failure is reported there.
  virtual void send(Rank to, const wire::DataHeader& header,
                    std::span<const std::span<const std::byte>> parts) = 0;
  // Time::max(): no deadline. A deadline that has passed: what is here already.
  virtual Received receive(Time deadline) = 0;
  // Writes what is still queued, until the deadline, the loss of a peer or the watch's
  // interruption, which receive() then reports. After a step's last message, which nobody answers.
  virtual void flush(Time deadline) = 0;
  virtual std::span<const LinkStats> stats() const = 0;  // [n_ranks]; valid until the next call
};

// What a waiting rank watches besides its peers: its agent's control channel.
class Watch {
 public:
  virtual ~Watch() = default;
  virtual int fd() const = 0;  // readable: interrupted() has to be asked. -1 in simulation
  // Reads what is there; true: the epoch is over, receive() returns kInterrupted.
  virtual bool interrupted() = 0;
  // join() gives up: this rank did not come before the deadline.
  virtual void absent(Rank) {}
};

// Where a rank can be reached.
struct Endpoint {
  std::string host;  // IPv4, IPv6 or a name
  std::uint16_t port = 0;
  Fingerprint fingerprint{};  // of its key
  bool clear = false;         // a private link: no TLS between two ranks that are marked so
  std::string host_id;        // equal and not empty: the same machine, so shared memory works
  bool operator==(const Endpoint&) const = default;
};

struct GroupSpec {
  std::uint64_t cluster = 0;
  std::uint32_t epoch = 0;
  Rank rank = 0;
  std::vector<Endpoint> ranks;  // [n_ranks]; at most kRanksMax; the same on every rank
};

// Makes the transport of an epoch; lives as long as the process.
class Fabric {
 public:
  virtual ~Fabric() = default;
  // Connects to every peer: ranks above call ranks below. kUnavailable: a peer that did not come
  // before the deadline, named by rank; or the watch interrupted. `watch` may be null, and must
  // outlive the transport.
  virtual Result<std::unique_ptr<Transport>> join(const GroupSpec& spec, Time deadline,
                                                  Watch* watch) = 0;
};

struct TcpOptions {
  std::string host;        // to listen on: IPv4, IPv6 or a name; empty: every address
  std::uint16_t port = 0;  // 0: any free one
  // Before receive() sleeps, it asks again and again for so long, and yields in between: waking up
  // costs more than most messages take. Not where others compute on its processor. Nothing: 2 ms.
  std::optional<Duration> spin;
  std::size_t queue_bytes_max = std::size_t{512} << 20;  // of one peer; above it, it is lost
  // A peer is lost whose machine does not acknowledge what it got for so long. Not one whose
  // process is busy, which is the agents' to judge.
  Duration user_timeout = std::chrono::seconds(2);
  bool shared_memory = true;  // used where both ends have it and their host ids are equal
  // Why a connection was turned away during join(), one line each: for the log.
  std::function<void(const std::string&)> on_refused;
};

class TcpFabric final : public Fabric {
 public:
  // Listens from now on, so that peers can call before join(). `clock` must outlive the fabric and
  // its transports, and be the real one: it is compared with what poll() waits.
  static Result<std::unique_ptr<TcpFabric>> listen(const Clock& clock, const Identity& identity,
                                                   const TcpOptions& options);
  ~TcpFabric() override;

  std::uint16_t port() const;
  // A connection of another epoch, with another key, or that speaks something else is turned away
  // and disturbs nobody.
  Result<std::unique_ptr<Transport>> join(const GroupSpec& spec, Time deadline,
                                          Watch* watch) override;

 private:
  struct State;
  explicit TcpFabric(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

// Ranks that are threads of one process; any thread may call the fabric. An epoch begins when all
// its ranks have joined. For tests: real time, and a watch is asked every few milliseconds.
class LoopbackFabric final : public Fabric {
 public:
  LoopbackFabric();
  ~LoopbackFabric() override;

  Result<std::unique_ptr<Transport>> join(const GroupSpec& spec, Time deadline,
                                          Watch* watch) override;
  // As if the process of this rank of the newest epoch ended now: its peers lose it after what it
  // has sent, and its own calls say kInterrupted.
  void kill(Rank rank);

 private:
  struct State;
  class Member;                   // the transport of one rank
  std::shared_ptr<State> state_;  // shared with the transports
};

// Makes every message of `inner` arrive `delay` after it was sent, never earlier. Both ends must be
// wrapped and share a monotonic clock, as processes of one machine do: the time of sending travels
// as 8 more bytes of the payload. `inner` and `clock` must outlive it and its transports.
class DelayedFabric final : public Fabric {
 public:
  DelayedFabric(Fabric& inner, const Clock& clock, Duration delay)
      : inner_(inner), clock_(clock), delay_(delay) {}

  Result<std::unique_ptr<Transport>> join(const GroupSpec& spec, Time deadline,
                                          Watch* watch) override;

 private:
  Fabric& inner_;
  const Clock& clock_;
  Duration delay_;
};

// The same for one transport.
std::unique_ptr<Transport> delayed(std::unique_ptr<Transport> inner, const Clock& clock,
                                   Duration delay);

}  // namespace conclave::transport
