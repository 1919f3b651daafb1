#include "transport/link.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <utility>

namespace conclave::transport {
namespace {

constexpr std::size_t kPiecesMax = kPartsMax + 2;  // header, parts, and one more of a decorator
constexpr std::size_t kQueuePieces = 16;           // in one write; chunks are large

std::size_t total_size(std::span<const std::span<const std::byte>> parts) {
  std::size_t size = 0;
  for (const std::span<const std::byte> part : parts) size += part.size();
  return size;
}

}  // namespace

Link::Link(Rank peer, std::uint32_t epoch, const Limits& limits, std::optional<SecureStream> stream,
           std::optional<ShmLane> lane)
    : peer_(peer),
      epoch_(epoch),
      limits_(limits),
      stream_(std::move(stream)),
      lane_(std::move(lane)) {
  CHECK(stream_.has_value() != lane_.has_value());
}

void Link::lose(std::string reason) {
  CHECK(!reason.empty());
  if (!lost()) reason_ = std::move(reason);
  queue_.clear();
}

IoResult Link::read_some(std::span<std::byte> into) {
  return lane_ ? lane_->read_some(into) : stream_->read_some(into);
}

IoResult Link::write_some(std::span<const std::span<const std::byte>> parts) {
  return lane_ ? lane_->write_some(parts) : stream_->write_some(parts);
}

// How much of the parts was taken, until the link takes no more.
std::size_t Link::write_parts(std::span<const std::span<const std::byte>> parts) {
  CHECK(parts.size() <= kPiecesMax);
  std::array<std::span<const std::byte>, kPiecesMax> rest;
  std::copy(parts.begin(), parts.end(), rest.begin());
  std::span<std::span<const std::byte>> pieces = std::span(rest).first(parts.size());
  std::size_t taken = 0;
  for (;;) {
    while (!pieces.empty() && pieces.front().empty()) pieces = pieces.subspan(1);
    if (pieces.empty()) return taken;
    const IoResult wrote = write_some(pieces);
    write_wants_ = wrote.status;
    if (wrote.status == IoStatus::kClosed || wrote.status == IoStatus::kFailed) {
      lose(std::string(lane_ ? lane_->error() : stream_->error()));
    }
    if (wrote.status != IoStatus::kDone) return taken;
    taken += wrote.bytes;
    for (std::size_t left = wrote.bytes; left > 0;) {
      const std::size_t n = std::min(left, pieces.front().size());
      pieces.front() = pieces.front().subspan(n);
      left -= n;
      if (pieces.front().empty()) pieces = pieces.subspan(1);
    }
  }
}

void Link::send(const wire::DataHeader& header, std::span<const std::span<const std::byte>> parts) {
  if (lost()) return;
  wire::DataHeader filled = header;
  const std::size_t size = total_size(parts);
  CHECK(size <= wire::kDataSizeMax);
  filled.epoch = epoch_;
  filled.sequence = next_sent_++;
  filled.size = static_cast<std::uint32_t>(size);
  const auto header_bytes = wire::encode(filled);
  stats_.messages_sent += 1;
  stats_.bytes_sent += header_bytes.size() + size;

  std::array<std::span<const std::byte>, kPiecesMax> all;
  CHECK(parts.size() < kPiecesMax);
  all[0] = header_bytes;
  std::copy(parts.begin(), parts.end(), all.begin() + 1);
  const auto pieces = std::span(all).first(parts.size() + 1);
  const std::size_t taken = queue_.empty() ? write_parts(pieces) : 0;
  if (lost()) return;
  const std::size_t left = header_bytes.size() + size - taken;
  if (queue_.size() + left > limits_.queue_bytes_max) {
    return lose(std::to_string((queue_.size() + left) >> 20) + " MiB queued that it did not take");
  }
  queue_.push(pieces, taken);
}

void Link::write_queued() {
  while (!queue_.empty() && !lost()) {
    std::array<std::span<const std::byte>, kQueuePieces> pieces;
    const std::size_t n = queue_.front(pieces);
    const std::size_t offered = total_size(std::span(pieces).first(n));
    const std::size_t taken = write_parts(std::span(pieces).first(n));
    if (lost()) return;
    queue_.pop(taken);
    if (taken < offered) return;
  }
}

// Reads on until `bytes` are there; false: they are not yet, or the link is lost.
bool Link::fill(std::span<std::byte> bytes, std::size_t& have) {
  while (have < bytes.size()) {
    const IoResult got = read_some(bytes.subspan(have));
    read_wants_ = got.status;
    have += got.bytes;
    if (got.status == IoStatus::kDone) continue;
    if (got.status == IoStatus::kClosed || got.status == IoStatus::kFailed) {
      lose(std::string(lane_ ? lane_->error() : stream_->error()));
    }
    return false;
  }
  return true;
}

// Checks the header that has arrived and makes room for its payload.
bool Link::start_payload() {
  const auto header = wire::decode_data_header(header_bytes_);
  if (!header) {
    lose(header.error().message);
    return false;
  }
  header_ = header.value();
  if (header_.size > payload_capacity_) {
    payload_ = std::make_unique_for_overwrite<std::byte[]>(header_.size);
    payload_capacity_ = header_.size;
  }
  payload_have_ = 0;
  return true;
}

std::optional<Message> Link::read() {
  while (!lost()) {
    if (header_have_ < header_bytes_.size()) {
      if (!fill(header_bytes_, header_have_) || !start_payload()) return std::nullopt;
    }
    const std::span<std::byte> payload(payload_.get(), header_.size);
    if (!fill(payload, payload_have_)) return std::nullopt;
    header_have_ = 0;
    stats_.messages_received += 1;
    stats_.bytes_received += header_bytes_.size() + payload.size();
    if (header_.epoch != epoch_) continue;
    if (header_.sequence != next_received_) {
      lose("message " + std::to_string(header_.sequence) + " came where " +
           std::to_string(next_received_) + " was expected");
      return std::nullopt;
    }
    ++next_received_;
    return Message{.from = peer_, .header = header_, .payload = payload};
  }
  return std::nullopt;
}

int Link::fd() const { return lane_ ? lane_->fd() : stream_->fd(); }

short Link::poll_events(bool to_read) const {
  if (lane_) return POLLIN;
  // TLS may have to write in order to read, and the other way round.
  const bool in = to_read || write_wants_ == IoStatus::kWantRead;
  const bool out = has_queued() || read_wants_ == IoStatus::kWantWrite;
  return static_cast<short>((in ? POLLIN : 0) | (out ? POLLOUT : 0));
}

bool Link::prepare_wait(bool to_read) {
  return !lane_ || lane_->prepare_wait(to_read, has_queued());
}

void Link::finish_wait(bool ready) {
  if (lane_) lane_->finish_wait(ready);
}

void Link::check_silence() {
  if (lane_) return;
  const Duration silence = unanswered_for(stream_->fd());
  if (silence < limits_.silence_max) return;
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(silence).count();
  lose("its machine has not answered for " + std::to_string(ms) + " ms");
}

}  // namespace conclave::transport
