#include "cluster/control_connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <utility>

namespace conclave::cluster {
namespace {

using transport::IoResult;
using transport::IoStatus;
using transport::SecureStream;

constexpr std::size_t kReadBytes = 64 << 10;
constexpr std::size_t kReadsMax = 16;           // of one advance()
constexpr std::size_t kCompactBytes = 1 << 20;  // sent bytes that may lie before the queue

bool is_purpose(wire::pb::Purpose purpose) {
  return purpose == wire::pb::PURPOSE_CONTROL || purpose == wire::pb::PURPOSE_PAIR ||
         purpose == wire::pb::PURPOSE_BULK;
}

std::size_t frame_length(std::string_view header) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < wire::kFrameHeaderSize; ++i) {
    length |= std::size_t{static_cast<unsigned char>(header[i])} << (8 * i);
  }
  return length;
}

// What a stranger says goes into logs and onto terminals.
std::string printable(std::string_view text, std::size_t size_max) {
  std::string out(text.substr(0, size_max));
  std::replace_if(
      out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return out;
}

}  // namespace

bool wire_versions_agree(std::uint32_t mine, std::uint32_t theirs) {
  return std::max(mine, theirs) - std::min(mine, theirs) <= 1;
}

ControlConnection::Step ControlConnection::advance() {
  switch (phase_) {
    case Phase::kHandshake:
      return advance_handshake();
    case Phase::kOpening:
      return advance_opening();
    case Phase::kAsked:
      return Step::kIdle;
    case Phase::kOpen:
      return advance_open();
    case Phase::kFinishing:
      return advance_finishing();
    case Phase::kClosed:
      return Step::kClosed;
  }
  CHECK(false);
}

ControlConnection::Step ControlConnection::failed(std::string reason) {
  close(std::move(reason));
  return Step::kClosed;
}

// A call of the stream that moved nothing.
ControlConnection::Step ControlConnection::ended(const IoResult& result) {
  switch (result.status) {
    case IoStatus::kDone:
    case IoStatus::kWantRead:
      return Step::kIdle;
    case IoStatus::kWantWrite:
      wants_write_ = true;
      return Step::kIdle;
    case IoStatus::kClosed:
    case IoStatus::kFailed:
      break;
  }
  return failed(std::string(stream_->error()));
}

ControlConnection::Step ControlConnection::advance_handshake() {
  wants_write_ = false;
  const IoResult result = stream_->handshake();
  if (result.status != IoStatus::kDone) return ended(result);
  phase_ = Phase::kOpening;
  peer_ = stream_->peer_fingerprint();
  if (options_.side == Side::kCaller) send_open("");
  return advance();
}

ControlConnection::Step ControlConnection::advance_opening() {
  if (!flush()) return Step::kClosed;
  // Read to the byte: what follows the Open of a kBulk connection is not ours.
  while (true) {
    std::size_t target = wire::kFrameHeaderSize;
    if (open_in_.size() >= target) {
      const std::size_t length = frame_length(open_in_);
      if (length > kOpenSizeMax) return failed("its first message is no conclave Open");
      target += length;
      if (open_in_.size() == target) return take_open();
    }
    std::array<char, kOpenSizeMax> bytes;
    const std::size_t wanted = std::min(target - open_in_.size(), bytes.size());
    const IoResult result =
        stream_->read_some(std::as_writable_bytes(std::span(bytes).first(wanted)));
    if (result.bytes == 0) return ended(result);
    open_in_.append(bytes.data(), result.bytes);
  }
}

ControlConnection::Step ControlConnection::take_open() {
  auto open =
      wire::parse<wire::pb::Open>(std::string_view(open_in_).substr(wire::kFrameHeaderSize));
  if (!open) return failed("its first message is no conclave Open");
  peer_open_ = std::move(open).value();
  peer_open_.set_build(printable(peer_open_.build(), 64));

  const bool agree = wire_versions_agree(options_.wire_version, peer_open_.wire_version());
  if (options_.side == Side::kCaller) {
    if (!agree) return failed(upgrade_text());
    if (!peer_open_.refused().empty()) {
      return failed("refused: " + printable(peer_open_.refused(), 400));
    }
    phase_ = Phase::kOpen;
    opened_ = true;
    return Step::kOpened;
  }
  if (!agree) {
    refuse(upgrade_text());
    return advance();
  }
  if (!is_purpose(peer_open_.purpose())) {
    refuse("a connection of unknown purpose " + std::to_string(peer_open_.purpose()));
    return advance();
  }
  options_.purpose = static_cast<Purpose>(peer_open_.purpose());
  phase_ = Phase::kAsked;
  return Step::kAsked;
}

std::string ControlConnection::upgrade_text() const {
  const auto side = [](const std::string& build, std::uint32_t version) {
    return (build.empty() ? "unnamed build" : build) + " (wire version " + std::to_string(version) +
           ")";
  };
  const bool mine = options_.wire_version < peer_open_.wire_version();
  return std::string("needs upgrade: ") + (mine ? "this machine" : "the other machine") +
         " is too old; this one runs " + side(options_.build, options_.wire_version) +
         ", the other " + side(peer_open_.build(), peer_open_.wire_version());
}

void ControlConnection::accept() {
  CHECK(phase_ == Phase::kAsked);
  phase_ = Phase::kOpen;
  send_open("");
}

void ControlConnection::refuse(std::string reason) {
  CHECK(phase_ == Phase::kAsked || phase_ == Phase::kOpening);
  send_open(reason);
  finish(std::move(reason));
}

void ControlConnection::limit_frames(std::size_t size_max, std::size_t count_max) {
  frame_size_max_ = size_max;
  frames_left_ = count_max;
}

ControlConnection::Step ControlConnection::advance_open() {
  if (!flush()) return Step::kClosed;
  if (!opened_) {
    // Another thread goes on with a bulk stream: our Open has to be out before.
    if (options_.purpose == Purpose::kBulk && !queue_empty()) return Step::kIdle;
    opened_ = true;
    return Step::kOpened;
  }
  if (options_.purpose == Purpose::kBulk) return Step::kIdle;

  std::array<char, kReadBytes> bytes;
  for (std::size_t i = 0; i < kReadsMax; ++i) {
    const auto frame = reader_.next();
    if (!frame) return failed(frame.error().message);
    if (frame.value()) return take_frame(*frame.value());
    if (reader_.held_bytes() > frame_size_max_ + wire::kFrameHeaderSize) {
      return failed("sent a message larger than " + std::to_string(frame_size_max_) + " bytes");
    }
    const IoResult result = stream_->read_some(std::as_writable_bytes(std::span(bytes)));
    if (result.bytes == 0) return ended(result);
    reader_.push({bytes.data(), result.bytes});
  }
  return Step::kMore;
}

ControlConnection::Step ControlConnection::take_frame(std::string_view payload) {
  if (payload.size() > frame_size_max_) {
    return failed("sent a message of " + std::to_string(payload.size()) + " bytes; the limit is " +
                  std::to_string(frame_size_max_));
  }
  if (frames_left_ == 0) return failed("sent more messages than it may");
  --frames_left_;
  payload_ = payload;
  return Step::kFrame;
}

ControlConnection::Step ControlConnection::advance_finishing() {
  if (!flush()) return Step::kClosed;
  if (queue_empty() && !shut_) {
    // Not close(): bytes of the peer that we did not read would make it an abort, which can
    // destroy what we have just sent.
    ::shutdown(stream_->fd(), SHUT_WR);
    shut_ = true;
  }
  std::array<char, kReadBytes> bytes;
  for (std::size_t i = 0; i < kReadsMax; ++i) {
    const IoResult result = stream_->read_some(std::as_writable_bytes(std::span(bytes)));
    if (result.bytes == 0) return ended(result);
  }
  return Step::kMore;
}

void ControlConnection::send_open(const std::string& refused) {
  wire::pb::Open open;
  open.set_purpose(static_cast<wire::pb::Purpose>(options_.purpose));
  open.set_wire_version(options_.wire_version);
  open.set_build(options_.build);
  open.set_refused(refused);
  queue(open);
}

void ControlConnection::queue(const google::protobuf::MessageLite& message) {
  if (out_begin_ >= kCompactBytes) {
    out_.erase(0, out_begin_);
    out_begin_ = 0;
  }
  if (auto added = wire::append_frame(message, out_); !added) return close(added.error().message);
  if (const std::size_t queued = out_.size() - out_begin_; queued > options_.queue_max) {
    close(std::to_string(queued) + " bytes are queued, which the peer does not take");
  }
}

void ControlConnection::send(const google::protobuf::MessageLite& message) {
  if (phase_ != Phase::kOpen || options_.purpose == Purpose::kBulk) return;
  queue(message);
  if (!closed()) flush();
}

bool ControlConnection::flush() {
  wants_write_ = false;
  while (!closed() && !queue_empty()) {
    const std::string_view rest = std::string_view(out_).substr(out_begin_);
    const IoResult result = stream_->write_some(std::as_bytes(std::span(rest)));
    if (result.bytes == 0) {
      ended(result);
      return !closed();
    }
    out_begin_ += result.bytes;
  }
  if (queue_empty()) {
    out_.clear();
    out_begin_ = 0;
  }
  return !closed();
}

void ControlConnection::finish(std::string reason) {
  if (phase_ == Phase::kFinishing || closed()) return;
  if (phase_ == Phase::kHandshake) return close(std::move(reason));
  phase_ = Phase::kFinishing;
  if (reason_.empty()) reason_ = std::move(reason);
}

void ControlConnection::close(std::string reason) {
  if (closed()) return;
  phase_ = Phase::kClosed;
  stream_.reset();
  wants_write_ = false;
  // Why it was finished says more than how the connection then ended.
  if (reason_.empty()) reason_ = std::move(reason);
}

SecureStream ControlConnection::take() {
  CHECK(phase_ == Phase::kOpen && opened_ && options_.purpose == Purpose::kBulk && queue_empty());
  SecureStream stream = std::move(*stream_);
  stream_.reset();
  phase_ = Phase::kClosed;
  return stream;
}

}  // namespace conclave::cluster
