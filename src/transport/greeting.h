// One connection on its way to becoming a link: connects, proves keys, and says hello.
//
// The caller:    connect · TLS · hello -> · <- hello · [lane -> · <- lane]
// The acceptor:  first byte · TLS · <- hello · hello -> · [<- lane · lane ->]
//
// A failure concerns this connection alone. The bytes are untrusted until the hello was checked.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "transport/hello.h"
#include "transport/secure_stream.h"
#include "transport/shm_lane.h"
#include "transport/socket.h"

namespace conclave::transport {

class Greeting {
 public:
  enum class State : std::uint8_t { kWorking, kDone, kFailed };

  // Both take a socket; the references must outlive the greeting.
  static Greeting call(Socket connecting, Rank peer, const GroupSpec& spec,
                       const Identity& identity, bool shared_memory);
  static Greeting accept(Socket accepted, const GroupSpec& spec, const Identity& identity,
                         bool shared_memory);

  // Goes on as far as it can without waiting.
  State step();
  short poll_events() const { return poll_events_; }
  int fd() const;

  // kFailed.
  const std::string& reason() const { return reason_; }
  // kDone: the peer; and one of the two, once.
  Rank peer() const { return peer_; }
  std::optional<SecureStream> take_stream() { return std::move(stream_); }
  std::optional<ShmLane> take_lane() { return std::move(lane_); }

 private:
  enum class Stage : std::uint8_t {
    kConnect,
    kFirstByte,
    kTls,
    kSendHello,
    kReadHello,
    kSendLane,
    kReadLane,
    kDone,
    kFailed,
  };

  Greeting(Socket socket, bool caller, const GroupSpec& spec, const Identity& identity,
           bool shared_memory);

  bool advance();
  bool enter(Stage stage);
  bool fail(std::string reason);
  bool moved(const IoResult& result);
  bool send(std::span<const std::byte> bytes);
  bool read(std::span<std::byte> bytes);

  bool connect();
  bool look_at_first_byte();
  Hello own_hello(Rank to) const;
  bool offers_lane(Rank peer) const;
  bool take_call();
  bool take_answer();
  bool take_lane_byte();
  bool finish_lane(bool use);

  Socket socket_;  // until there is a stream
  bool caller_;
  const GroupSpec& spec_;
  const Identity& identity_;
  bool shared_memory_;

  Stage stage_;
  Rank peer_ = 0;  // an acceptor's: from its hello
  short poll_events_ = 0;
  std::string reason_;
  std::optional<SecureStream> stream_;
  std::optional<LaneListener> lane_listener_;
  std::optional<ShmLane> lane_;

  std::array<std::byte, kHelloSize> out_{};
  std::array<std::byte, kHelloSize> in_{};
  std::size_t moved_ = 0;  // bytes of the message that this stage sends or reads
};

}  // namespace conclave::transport
