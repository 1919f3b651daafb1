#include "collective/mailbox.h"

#include <utility>

#include "base/check.h"

namespace conclave::collective {
namespace {

std::string rank_name(Rank rank) { return "rank " + std::to_string(rank); }

std::string describe(const wire::DataHeader& header) {
  return "kind " + std::to_string(static_cast<int>(header.kind)) + " step " +
         std::to_string(header.step) + " layer " + std::to_string(header.layer) + " phase " +
         std::to_string(static_cast<int>(header.phase));
}

bool same_tag(const wire::DataHeader& a, const wire::DataHeader& b) {
  return a.kind == b.kind && a.phase == b.phase && a.layer == b.layer && a.step == b.step;
}

}  // namespace

Mailbox::Mailbox(transport::Transport& transport, const Clock& clock, Duration wait_limit,
                 std::atomic<std::int32_t>* waiting_for)
    : transport_(transport),
      clock_(clock),
      wait_limit_(wait_limit),
      waiting_for_(waiting_for != nullptr ? *waiting_for : own_waiting_for_),
      kept_(transport.n_ranks()),
      taken_(transport.n_ranks()) {}

Result<Mailbox::Taken> Mailbox::next(Rank from, bool limited) {
  CHECK(from < kept_.size() && from != transport_.rank());
  TRY(check());
  std::deque<Kept>& kept = kept_[from];
  while (kept.empty()) TRY(receive(from, limited));

  std::vector<std::byte>& payload = taken_[from];
  std::swap(payload, kept.front().payload);
  const wire::DataHeader header = kept.front().header;
  if (free_buffers_.size() < kept_.size()) {
    free_buffers_.push_back(std::move(kept.front().payload));
  }
  kept.pop_front();
  return Taken{header, payload};
}

Result<std::span<const std::byte>> Mailbox::take(Rank from, const wire::DataHeader& expected,
                                                 std::optional<std::size_t> size) {
  const Taken taken = TRY(next(from, true));
  if (!same_tag(taken.header, expected)) {
    return protocol_error(from,
                          "sent " + describe(taken.header) + " instead of " + describe(expected));
  }
  if (size && taken.payload.size() != *size) {
    return protocol_error(from, "sent " + std::to_string(taken.payload.size()) +
                                    " bytes instead of " + std::to_string(*size) + " in " +
                                    describe(expected));
  }
  return taken.payload;
}

Result<void> Mailbox::receive(Rank awaited, bool limited) {
  const Time begin = clock_.now();
  waiting_for_.store(static_cast<std::int32_t>(awaited), std::memory_order_relaxed);
  const transport::Received received = transport_.receive(begin + wait_limit_);
  waiting_for_.store(-1, std::memory_order_relaxed);
  waited_ += clock_.now() - begin;

  switch (received.kind) {
    case transport::Received::Kind::kMessage:
      return keep(received.message);
    case transport::Received::Kind::kDeadline:
      if (!limited) return {};
      return end({.kind = Broken::Kind::kLate,
                  .peer = awaited,
                  .reason = rank_name(awaited) + " sent nothing for " +
                            std::to_string(seconds(wait_limit_)) + " s"},
                 ErrorCode::kUnavailable);
    case transport::Received::Kind::kInterrupted:
      return end({.kind = Broken::Kind::kInterrupted,
                  .peer = awaited,
                  .reason = "interrupted while waiting for " + rank_name(awaited)},
                 ErrorCode::kUnavailable);
    case transport::Received::Kind::kPeerLost:
      return end({.kind = Broken::Kind::kPeerLost,
                  .peer = received.lost,
                  .reason = rank_name(received.lost) + " is lost: " + received.reason},
                 ErrorCode::kUnavailable);
  }
  CHECK(false);
  return {};
}

Result<void> Mailbox::keep(const transport::Message& message) {
  CHECK(message.from < kept_.size());
  std::deque<Kept>& kept = kept_[message.from];
  if (kept.size() == kEarlyMax) {
    return protocol_error(message.from, "is more than " + std::to_string(kEarlyMax) +
                                            " messages ahead, with " + describe(message.header));
  }
  std::vector<std::byte> payload;
  if (!free_buffers_.empty()) {
    payload = std::move(free_buffers_.back());
    free_buffers_.pop_back();
  }
  payload.assign(message.payload.begin(), message.payload.end());
  kept.push_back({message.header, std::move(payload)});
  return {};
}

Error Mailbox::protocol_error(Rank peer, const std::string& what) {
  return end(
      {.kind = Broken::Kind::kProtocol, .peer = peer, .reason = rank_name(peer) + " " + what},
      ErrorCode::kCorrupt);
}

Error Mailbox::end(Broken broken, ErrorCode code) {
  if (!broken_) {
    error_ = Error{code, broken.reason};
    broken_ = std::move(broken);
  }
  return *error_;
}

Result<void> Mailbox::check() const {
  if (error_) return *error_;
  return {};
}

std::optional<Rank> Mailbox::waiting_for() const {
  const std::int32_t rank = waiting_for_.load(std::memory_order_relaxed);
  if (rank < 0) return std::nullopt;
  return static_cast<Rank>(rank);
}

}  // namespace conclave::collective
