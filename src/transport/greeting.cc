#include "transport/greeting.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace conclave::transport {
namespace {

constexpr std::byte kTlsFirstByte{0x16};  // of every TLS connection: a handshake record
constexpr std::byte kHasLane{1};
constexpr std::byte kNoLane{0};

}  // namespace

Greeting::Greeting(Socket socket, bool caller, const GroupSpec& spec, const Identity& identity,
                   bool shared_memory)
    : socket_(std::move(socket)),
      caller_(caller),
      spec_(spec),
      identity_(identity),
      shared_memory_(shared_memory),
      stage_(caller ? Stage::kConnect : Stage::kFirstByte),
      poll_events_(caller ? POLLOUT : POLLIN) {}

Greeting Greeting::call(Socket connecting, Rank peer, const GroupSpec& spec,
                        const Identity& identity, bool shared_memory) {
  Greeting greeting(std::move(connecting), true, spec, identity, shared_memory);
  greeting.peer_ = peer;
  return greeting;
}

Greeting Greeting::accept(Socket accepted, const GroupSpec& spec, const Identity& identity,
                          bool shared_memory) {
  return {std::move(accepted), false, spec, identity, shared_memory};
}

int Greeting::fd() const { return stream_ ? stream_->fd() : socket_.get(); }

Greeting::State Greeting::step() {
  while (advance()) {
  }
  if (stage_ == Stage::kDone) return State::kDone;
  return stage_ == Stage::kFailed ? State::kFailed : State::kWorking;
}

// Does what the stage can do now; true: it is over, and the next one may begin.
bool Greeting::advance() {
  switch (stage_) {
    case Stage::kConnect:
      return connect();
    case Stage::kFirstByte:
      return look_at_first_byte();
    case Stage::kTls:
      return moved(stream_->handshake()) && enter(caller_ ? Stage::kSendHello : Stage::kReadHello);
    case Stage::kSendHello:
      if (!send(out_)) return false;
      if (caller_) return enter(Stage::kReadHello);
      return lane_listener_ ? enter(Stage::kReadLane) : enter(Stage::kDone);
    case Stage::kReadHello:
      return read(in_) && (caller_ ? take_answer() : take_call());
    case Stage::kSendLane:
      if (!send(std::span(out_).first(1))) return false;
      return caller_ ? enter(Stage::kReadLane) : finish_lane(lane_.has_value());
    case Stage::kReadLane:
      return read(std::span(in_).first(1)) && take_lane_byte();
    case Stage::kDone:
    case Stage::kFailed:
      return false;
  }
  return false;
}

bool Greeting::enter(Stage stage) {
  stage_ = stage;
  moved_ = 0;
  return true;
}

bool Greeting::fail(std::string reason) {
  reason_ = std::move(reason);
  stage_ = Stage::kFailed;
  return false;
}

// Whether an operation of the stream succeeded; else it has to wait or has failed.
bool Greeting::moved(const IoResult& result) {
  switch (result.status) {
    case IoStatus::kDone:
      return true;
    case IoStatus::kWantRead:
      poll_events_ = POLLIN;
      return false;
    case IoStatus::kWantWrite:
      poll_events_ = POLLOUT;
      return false;
    case IoStatus::kClosed:
      return fail("it closed the connection, as for another epoch or key");
    case IoStatus::kFailed:
      break;
  }
  return fail(std::string(stream_->error()));
}

bool Greeting::send(std::span<const std::byte> bytes) {
  while (moved_ < bytes.size()) {
    const IoResult result = stream_->write_some(bytes.subspan(moved_));
    moved_ += result.bytes;
    if (!moved(result)) return false;
  }
  return true;
}

bool Greeting::read(std::span<std::byte> bytes) {
  while (moved_ < bytes.size()) {
    const IoResult result = stream_->read_some(bytes.subspan(moved_));
    moved_ += result.bytes;
    if (!moved(result)) return false;
  }
  return true;
}

bool Greeting::connect() {
  if (const int error = connect_error(socket_.get()); error != 0) return fail(error_text(error));
  if (!is_connected(socket_.get())) return false;

  Hello hello = own_hello(peer_);
  hello.shared_memory = offers_lane(peer_);
  out_ = encode(hello);
  if (link_is_clear(spec_, peer_)) {
    stream_ = SecureStream::clear(socket_.release());
    return enter(Stage::kSendHello);
  }
  const Fingerprint& expected = spec_.ranks[peer_].fingerprint;
  stream_ = SecureStream::tls(socket_.release(), identity_, SecureStream::Side::kCaller,
                              [&expected](const Fingerprint& shown) { return shown == expected; });
  return enter(Stage::kTls);
}

bool Greeting::look_at_first_byte() {
  std::byte first{};
  const ssize_t n = ::recv(socket_.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && (would_block(errno) || errno == EINTR)) return false;
  if (n <= 0) return fail("it ended before it said anything");
  if (first != kTlsFirstByte) {
    stream_ = SecureStream::clear(socket_.release());
    return enter(Stage::kReadHello);
  }
  const std::span<const Endpoint> callers = std::span(spec_.ranks).subspan(spec_.rank + 1u);
  stream_ = SecureStream::tls(socket_.release(), identity_, SecureStream::Side::kAcceptor,
                              [callers](const Fingerprint& shown) {
                                return std::any_of(callers.begin(), callers.end(),
                                                   [&shown](const Endpoint& caller) {
                                                     return caller.fingerprint == shown;
                                                   });
                              });
  return enter(Stage::kTls);
}

Hello Greeting::own_hello(Rank to) const {
  return {.cluster = spec_.cluster,
          .epoch = spec_.epoch,
          .n_ranks = static_cast<std::uint16_t>(spec_.ranks.size()),
          .rank = spec_.rank,
          .to = to};
}

bool Greeting::offers_lane(Rank peer) const {
  const std::string& host = spec_.ranks[spec_.rank].host_id;
  return shared_memory_ && !host.empty() && host == spec_.ranks[peer].host_id;
}

// The acceptor's: who calls, and may it?
bool Greeting::take_call() {
  const auto decoded = decode_hello(in_);
  if (!decoded) return fail(decoded.error().message);
  const Hello& hello = decoded.value();
  if (const auto checked = check_hello(hello, spec_, hello.rank); !checked) {
    return fail(checked.error().message);
  }
  peer_ = hello.rank;
  const std::string name = "rank " + std::to_string(peer_);
  if (peer_ <= spec_.rank) return fail(name + " does not call, it is called");
  if (stream_->is_tls() && stream_->peer_fingerprint() != spec_.ranks[peer_].fingerprint) {
    return fail("it has not the key of " + name);
  }
  if (!stream_->is_tls() && !link_is_clear(spec_, peer_)) {
    return fail("it is in clear, which the link to " + name + " is not marked for");
  }

  Hello answer = own_hello(peer_);
  if (hello.shared_memory && offers_lane(peer_)) {
    if (auto listener = LaneListener::make()) {
      answer.lane = listener->name();
      lane_listener_ = std::move(listener).value();
    }
  }
  answer.shared_memory = lane_listener_.has_value();
  out_ = encode(answer);
  return enter(Stage::kSendHello);
}

// The caller's: the hello that answers its own.
bool Greeting::take_answer() {
  const auto decoded = decode_hello(in_);
  if (!decoded) return fail(decoded.error().message);
  const Hello& hello = decoded.value();
  if (const auto checked = check_hello(hello, spec_, peer_); !checked) {
    return fail(checked.error().message);
  }
  if (!hello.shared_memory || !offers_lane(peer_)) return enter(Stage::kDone);
  if (auto lane = connect_lane(hello.lane)) lane_ = std::move(lane).value();
  out_[0] = lane_ ? kHasLane : kNoLane;
  return enter(Stage::kSendLane);
}

// One end's verdict. The acceptor's lane is there as soon as the caller says that it is.
bool Greeting::take_lane_byte() {
  if (in_[0] != kHasLane && in_[0] != kNoLane) return fail("its word on shared memory is garbage");
  const bool theirs = in_[0] == kHasLane;
  if (caller_) return finish_lane(theirs && lane_);
  if (theirs) {
    if (auto lane = lane_listener_->accept()) lane_ = std::move(lane).value();
  }
  out_[0] = lane_ ? kHasLane : kNoLane;
  return enter(Stage::kSendLane);
}

bool Greeting::finish_lane(bool use) {
  if (use) {
    stream_.reset();
  } else {
    lane_.reset();
  }
  return enter(Stage::kDone);
}

}  // namespace conclave::transport
