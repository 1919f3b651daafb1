// One control connection, from a connected socket on: TLS, what each side opens with, then frames.
//
//   caller:    TLS · Open -> · <- Open · frames
//   acceptor:  TLS · <- Open · the owner says accept() or refuse() · Open -> · frames
//
// Never blocks. The owner calls advance() whenever the socket is ready, and does what it says. What
// comes in is untrusted until the owner has accepted the peer.
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "transport/transport.h"
#include "wire/wire.h"

namespace conclave::cluster {

// Grows when a message changes in a way that the version before cannot be told.
inline constexpr std::uint32_t kWireVersion = 1;

// Both sides come to the same answer: versions that differ by at most one understand each other.
bool wire_versions_agree(std::uint32_t mine, std::uint32_t theirs);

enum class Purpose : std::uint8_t {
  kControl = wire::pb::PURPOSE_CONTROL,
  kPair = wire::pb::PURPOSE_PAIR,
  kBulk = wire::pb::PURPOSE_BULK,  // the bytes after the two Opens are not frames
};

inline constexpr std::size_t kOpenSizeMax = 4096;  // bytes of an Open; of build and refused too

class ControlConnection {
 public:
  using Side = transport::SecureStream::Side;
  struct Options {
    Side side = Side::kAcceptor;
    Purpose purpose = Purpose::kControl;  // a caller's
    std::uint32_t wire_version = kWireVersion;
    std::string build{};
    std::size_t queue_max = 0;  // bytes
  };

  ControlConnection(transport::SecureStream stream, Options options)
      : stream_(std::move(stream)), options_(std::move(options)) {}
  ControlConnection(const ControlConnection&) = delete;
  ControlConnection& operator=(const ControlConnection&) = delete;

  enum class Step : std::uint8_t {
    kIdle,    // waits for the socket: to be readable, and writable if wants_write()
    kMore,    // was busy for long enough: call again when others had their turn
    kAsked,   // acceptor: peer() and purpose() are known; accept() or refuse()
    kOpened,  // both sides agree; for kBulk the next thing is take()
    kFrame,   // payload() holds until the next call
    kClosed,  // reason() says why
  };
  Step advance();

  void accept();
  // Tells the peer why, and ends.
  void refuse(std::string reason);
  // Frames that the peer may send from now on: a larger one, or one more, ends the connection.
  void limit_frames(std::size_t size_max, std::size_t count_max);

  // Queues a frame and writes what the socket takes. Above queue_max the connection is closed: a
  // peer that does not read holds no more memory than that. After the end it does nothing.
  void send(const google::protobuf::MessageLite& message);
  // Writes what is queued, reads nothing more, and closes when the peer has closed.
  void finish(std::string reason);
  void close(std::string reason);
  // Of kBulk, after kOpened: the stream, and not a byte of it read by us.
  transport::SecureStream take();

  bool closed() const { return phase_ == Phase::kClosed; }
  bool opened() const { return opened_; }
  bool finishing() const { return phase_ == Phase::kFinishing; }
  bool wants_write() const { return wants_write_; }
  int fd() const { return stream_ ? stream_->fd() : -1; }
  const std::string& reason() const { return reason_; }
  std::string_view payload() const { return payload_; }

  Purpose purpose() const { return options_.purpose; }
  // Once the peer has proved its key; never of a stream in clear.
  const std::optional<transport::Fingerprint>& peer() const { return peer_; }
  std::uint32_t peer_wire_version() const { return peer_open_.wire_version(); }
  const std::string& peer_build() const { return peer_open_.build(); }

 private:
  enum class Phase : std::uint8_t { kHandshake, kOpening, kAsked, kOpen, kFinishing, kClosed };

  Step advance_handshake();
  Step advance_opening();
  Step advance_open();
  Step advance_finishing();
  Step take_open();
  Step take_frame(std::string_view payload);
  Step ended(const transport::IoResult& result);
  Step failed(std::string reason);
  void send_open(const std::string& refused);
  void queue(const google::protobuf::MessageLite& message);
  // False: the connection broke.
  bool flush();
  bool queue_empty() const { return out_begin_ == out_.size(); }
  std::string upgrade_text() const;

  std::optional<transport::SecureStream> stream_;  // until closed or taken
  Options options_;
  Phase phase_ = Phase::kHandshake;
  bool opened_ = false;
  bool wants_write_ = false;
  bool shut_ = false;  // kFinishing: we have said that nothing follows
  std::optional<transport::Fingerprint> peer_;
  std::string open_in_;  // the peer's first frame, as far as it has come
  wire::pb::Open peer_open_;
  wire::FrameReader reader_;
  std::string_view payload_;
  std::size_t frame_size_max_ = wire::kFrameSizeMax;
  std::size_t frames_left_ = std::numeric_limits<std::size_t>::max();
  std::string out_;
  std::size_t out_begin_ = 0;  // of what the stream has not taken
  std::string reason_;
};

}  // namespace conclave::cluster
