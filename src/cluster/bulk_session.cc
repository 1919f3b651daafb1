#include "cluster/bulk_session.h"

#include <algorithm>

#include "base/check.h"
#include "base/unix_time.h"

namespace conclave::cluster {
namespace {

using transport::IoStatus;

std::size_t bytes_needed_by(const BulkRequest& request) {
  switch (request.kind) {
    case BulkKind::kSkeleton:
      return kSkeletonListMax;  // of an unknown size: one at a time
    case BulkKind::kSkeletonBytes:
    case BulkKind::kEcho:
      return static_cast<std::size_t>(request.bytes);
    case BulkKind::kPart:
      return request.part->size_bytes();
    case BulkKind::kModel:
    case BulkKind::kRefused:
      break;
  }
  return 0;
}

}  // namespace

BulkSlot::BulkSlot(BulkRequest the_request)
    : request(the_request), bytes_needed(bytes_needed_by(request)) {}

void BulkSlot::fill(Result<std::vector<std::byte>> answer) {
  BulkAnswer head{.kind = request.kind, .id = request.id};
  if (answer) {
    bytes = std::move(answer).value();
  } else {
    head.kind = BulkKind::kRefused;
    head.code = answer.error().code;
    const std::string text = answer.error().message.substr(0, kRefusalMax);
    const auto as_bytes = std::as_bytes(std::span(text));
    bytes.assign(as_bytes.begin(), as_bytes.end());
  }
  head.bytes = bytes.size();
  head.hash = hash_of(bytes);
  header = encode(head);
}

void BulkSlot::fill_echo() {
  // Bytes that no link can shorten: some cards and tunnels compress.
  bytes.resize(static_cast<std::size_t>(request.bytes));
  std::uint32_t random = 1;
  for (std::byte& byte : bytes) {
    random = random * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(random >> 24u);
  }
  header = encode(BulkAnswer{.kind = request.kind,
                             .id = request.id,
                             .bytes = request.bytes,
                             .unix_us = unix_microseconds()});
}

Result<std::vector<BulkRequest>> BulkSession::read(std::size_t count_max, Time now) {
  std::vector<BulkRequest> requests;
  while (requests.size() < count_max) {
    const transport::IoResult got = stream_.read_some(std::span(in_).subspan(in_size_));
    if (got.status == IoStatus::kWantRead || got.status == IoStatus::kWantWrite) break;
    if (got.status != IoStatus::kDone) return unavailable(std::string(stream_.error()));
    moved_at_ = now;
    in_size_ += got.bytes;
    if (in_size_ < in_.size()) continue;
    in_size_ = 0;
    requests.push_back(TRY(decode_request(in_)));
  }
  return requests;
}

Result<bool> BulkSession::write(const BulkSlot& slot, Time now) {
  CHECK(slot.state == BulkSlot::State::kReady);
  const std::size_t total = slot.header.size() + slot.bytes.size();
  while (out_done_ < total) {
    const std::size_t header_done = std::min(out_done_, slot.header.size());
    const std::array<std::span<const std::byte>, 2> rest = {
        std::span(slot.header).subspan(header_done),
        std::span(slot.bytes).subspan(out_done_ - header_done)};
    const transport::IoResult sent = stream_.write_some(rest);
    if (sent.status == IoStatus::kWantRead || sent.status == IoStatus::kWantWrite) return false;
    if (sent.status != IoStatus::kDone) return unavailable(std::string(stream_.error()));
    moved_at_ = now;
    out_done_ += sent.bytes;
    sent_bytes_ += sent.bytes;
  }
  out_done_ = 0;
  return true;
}

}  // namespace conclave::cluster
