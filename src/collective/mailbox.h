// Messages of the peers, each peer's in the order of sending. A fast peer may be ahead: what comes
// from others than the awaited one is kept until its turn.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "collective/collective.h"

namespace conclave::collective {

// Messages of one peer that are kept. A peer waits for this rank once in every exchange, so it
// cannot be further ahead than its message of this exchange, a repair, a step's description or
// gathered rows, and its message of the next exchange. More breaks the protocol.
inline constexpr std::size_t kEarlyMax = 4;

class Mailbox {
 public:
  // `waiting_for`, if not null, outlives it: the rank waited for, -1: nobody.
  Mailbox(transport::Transport& transport, const Clock& clock, Duration wait_limit,
          std::atomic<std::int32_t>* waiting_for);

  struct Taken {
    wire::DataHeader header;
    std::span<const std::byte> payload;  // valid until this peer's next message is taken
  };
  // The peer's next message. `limited` false: waits until it comes or the epoch ends.
  Result<Taken> next(Rank from, bool limited);
  // The same; its kind, tag and, where one is given, its size must be the expected ones.
  Result<std::span<const std::byte>> take(Rank from, const wire::DataHeader& expected,
                                          std::optional<std::size_t> size);

  // Ends the epoch: a message of `peer` that is not what the protocol says.
  Error protocol_error(Rank peer, const std::string& what);

  // Ok until an error; then that error.
  Result<void> check() const;
  const std::optional<Broken>& broken() const { return broken_; }
  std::optional<Rank> waiting_for() const;
  Duration waited() const { return waited_; }

 private:
  struct Kept {
    wire::DataHeader header;
    std::vector<std::byte> payload;
  };

  Result<void> receive(Rank awaited, bool limited);
  Result<void> keep(const transport::Message& message);
  Error end(Broken broken, ErrorCode code);

  transport::Transport& transport_;
  const Clock& clock_;
  Duration wait_limit_;
  std::atomic<std::int32_t> own_waiting_for_{-1};
  std::atomic<std::int32_t>& waiting_for_;  // other threads read it
  Duration waited_{};
  std::vector<std::deque<Kept>> kept_;                // by rank, in order of arrival
  std::vector<std::vector<std::byte>> taken_;         // by rank: the payload handed out last
  std::vector<std::vector<std::byte>> free_buffers_;  // at most one a rank
  std::optional<Broken> broken_;
  std::optional<Error> error_;
};

}  // namespace conclave::collective
