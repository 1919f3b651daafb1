// A nonblocking byte stream over a connected TCP socket: in clear, or TLS 1.3 where both ends show
// their key and each decides by its fingerprint whether the other may talk to it.
//
//   SecureStream stream = SecureStream::tls(fd, identity, SecureStream::Side::kCaller,
//                                           [&](const Fingerprint& shown) { return shown == peer;
//                                           });
//   stream.handshake();   // until kDone; then read_some() and write_some()
//
// Every call returns at once. After kWantRead or kWantWrite, poll() fd() for POLLIN or POLLOUT and
// make the same call again. Before waiting for POLLIN, read until kWantRead: TLS may hold bytes
// that poll() knows nothing of. No call raises SIGPIPE. There are no sessions to resume.
//
// Threads: one at a time calls a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "transport/identity.h"

namespace conclave::transport {

enum class IoStatus : std::uint8_t {
  kDone,
  kWantRead,   // nothing was moved; try again when the socket is readable
  kWantWrite,  // nothing was moved; try again when it is writable
  kClosed,     // the peer ended the connection
  kFailed,     // it broke, or the peer is not who it should be; error() says how
};

struct IoResult {
  IoStatus status = IoStatus::kDone;
  std::size_t bytes = 0;  // moved; above 0 only with kDone
};

class SecureStream {
 public:
  enum class Side : std::uint8_t { kCaller, kAcceptor };
  // Whether a peer with this key may talk to us. Called once, during the handshake.
  using Accept = std::function<bool(const Fingerprint&)>;

  // Both take a connected (or connecting) stream socket, which becomes theirs.
  static SecureStream clear(int fd);
  static SecureStream tls(int fd, const Identity& identity, Side side, Accept accept);
  SecureStream(SecureStream&&) noexcept;
  SecureStream& operator=(SecureStream&&) noexcept;
  ~SecureStream();  // says goodbye if the socket takes it at once, and closes

  // kDone with 0 bytes: finished. A caller's side is finished before the other has checked the
  // caller's key: a refusal then is the first read's kFailed.
  IoResult handshake();
  // kDone: 1 to into.size() bytes were read.
  IoResult read_some(std::span<std::byte> into);
  // kDone: the first `bytes` bytes of the parts, one after the other, were taken; more of them may
  // be taken at once. What was not taken must be offered again before anything else.
  IoResult write_some(std::span<const std::span<const std::byte>> parts);
  IoResult write_some(std::span<const std::byte> bytes);

  int fd() const;
  bool is_tls() const;
  // After the handshake of a TLS stream, the peer's key, which it has proved to hold.
  const std::optional<PublicKey>& peer_key() const;
  std::optional<Fingerprint> peer_fingerprint() const;
  // Of the last kFailed or kClosed, one line: "connection reset by peer".
  std::string_view error() const;

 private:
  struct State;
  explicit SecureStream(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace conclave::transport
