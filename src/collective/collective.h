// What ranks do together: broadcast a step, add partial sums, gather logits. Over any Transport.
//
//   Group group(transport, layout, options);
//   group.exchange(tag, partials, hidden, &routing);   // hidden is then equal on every rank
//
// Sums. The model is divided into *virtual ranks*, fixed when it is placed; consecutive virtual
// ranks form a *group*, one machine's share at placement. Always, whoever computes them,
//   hidden = (((residual + g0) + g1) + ...),   g0 = (v00 + v01) + ..., in float32,
// except that group 0 adds to the residual directly: (residual + v00) + v01. A rank that computes
// all virtual ranks of a group sends their sum; one that has taken over some of them sends each by
// itself. So a take-over moves no bit.
//
// Up to `direct_bytes_max` of hidden rows every rank sends its sums to every peer (one round);
// above, each rank sums a share of the rows and sends it to all (reduce-scatter, all-gather). Both
// add in the same order.
//
// With Wire::kBF16 each virtual rank's partial is rounded to bf16, and so is each group's sum of
// them, before they are added in float32; group 0, which rank 0 adds to its residual, is not.
// Rounding both keeps a take-over of single virtual ranks from moving a bit.
//
// Threads: one thread calls a Group, waiting_for() any. The transport's receive() and flush() are
// the only places that wait.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "transport/transport.h"

namespace conclave::collective {

using transport::Rank;

struct VirtualRank {
  std::uint16_t group = 0;
  Rank rank = 0;  // that computes it in this epoch
  bool operator==(const VirtualRank&) const = default;
};

enum class Wire : std::uint8_t { kF32, kBF16 };

struct GroupOptions {
  std::size_t hidden_size = 0;
  Wire wire = Wire::kF32;
  std::size_t direct_bytes_max = std::size_t{64} << 10;  // of hidden rows [R, H] in float32
  Duration wait_limit = std::chrono::seconds(60);  // backstop: the agents end an epoch earlier
  // Told of the rank that is waited for, -1: none; outlives the group. For heartbeats.
  std::atomic<std::int32_t>* waiting_for = nullptr;
};

// The experts of a layer's rows, so that all ranks route alike. [R, K], ascending in a row.
struct RoutingCheck {
  std::span<const ExpertId> experts;
  std::span<const float> weights;
  // Rank 0 chose others: compute this rank's partials again with rank 0's experts and weights,
  // which came over the network and are to be checked. `hidden` of the exchange must stay valid.
  std::function<Result<void>(std::span<const ExpertId>, std::span<const float>)> recompute;
};

struct Tag {
  std::uint32_t step = 0;
  std::uint16_t layer = wire::kNoLayer;
  wire::Phase phase = wire::Phase::kOutside;
};

struct GroupStats {
  std::uint64_t exchanges = 0;
  std::uint64_t rounds = 0;      // message depths: 1 for a direct exchange, 2 for a large one
  std::uint64_t repairs = 0;     // exchanges that needed a repair round
  std::uint64_t mismatches = 0;  // ranks that routed differently
  Duration waited{};             // in receive()
};

// Why an epoch ended.
struct Broken {
  enum class Kind : std::uint8_t { kInterrupted, kPeerLost, kLate, kProtocol };
  Kind kind = Kind::kInterrupted;
  Rank peer = 0;  // lost, or waited for
  std::string reason;
};

// kInvalidInput: no virtual rank, groups that are not ascending from 0 without gaps, a rank that is
// not below `n_ranks`, a virtual rank of group 0 that rank 0 does not compute, more than
// kVirtualRanksMax on one of several ranks.
inline constexpr std::size_t kVirtualRanksMax = transport::kPartsMax - 2;
Result<void> check_layout(std::span<const VirtualRank> virtual_ranks, std::size_t n_ranks);

// Every error ends the epoch: broken() says how, and all later calls return the same error.
// kUnavailable: interrupted, a peer lost or late. kCorrupt: a peer broke the protocol.
class Group {
 public:
  // `virtual_ranks` in summing order; check_layout() must hold (CHECKed). `transport` may be null
  // when every virtual rank is rank 0's. Transport and clock must outlive the group.
  Group(transport::Transport* transport, const Clock& clock, std::vector<VirtualRank> virtual_ranks,
        const GroupOptions& options);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  Rank rank() const;
  std::size_t n_ranks() const;
  std::span<const VirtualRank> virtual_ranks() const;
  // The virtual ranks that this rank computes, ascending: `own_index` below counts them.
  std::span<const std::size_t> own() const;

  // Rank 0 to all: an opaque description of a step and its rows' embeddings [R, H].
  Result<void> send_step(std::uint32_t step, std::span<const std::byte> description,
                         std::span<const float> residual);
  struct StepMessage {
    std::uint32_t step = 0;
    std::vector<std::byte> description;
    std::vector<float> residual;
  };
  // Other ranks: waits without a limit, until interrupted.
  Result<StepMessage> receive_step();

  // hidden [R, H]: in, on rank 0, the residual stream; out, on every rank, residual plus all
  // partials. `partial` gives the [R, H] of each of own(); it is asked again after a recompute.
  // `routing`: on all ranks or on none; null outside MoE layers.
  Result<void> exchange(const Tag& tag,
                        const std::function<std::span<const float>(std::size_t own_index)>& partial,
                        std::span<float> hidden, const RoutingCheck* routing);

  // Hidden rows [R, H] from rank `from` to rank `to`, in float32: between stages of a pipeline.
  // Other ranks do not take part.
  Result<void> hand_over(const Tag& tag, Rank from, Rank to, std::span<float> hidden);

  // Logits [rows, n_v] of each virtual rank v's share of the vocabulary, to rank 0, whose `take`
  // gets those of every v, its own included, in ascending order. It checks their number: an error
  // of it is the sender's. Elsewhere `take` is not called.
  Result<void> gather_head(
      std::uint32_t step,
      const std::function<std::span<const float>(std::size_t own_index)>& logits,
      const std::function<Result<void>(std::size_t virtual_rank, std::span<const float> logits)>&
          take);

  const GroupStats& stats() const;
  // After an error.
  const std::optional<Broken>& broken() const;
  // The rank that this one waits for at this moment, or nothing: read by the heartbeat thread.
  std::optional<Rank> waiting_for() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  friend class Exchange;
};

}  // namespace conclave::collective
