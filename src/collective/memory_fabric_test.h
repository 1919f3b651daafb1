// A Transport for tests: ranks are threads of one process and messages are queues. Which peer's
// message a rank sees first is drawn from the seed, so that all orders of arrival occur.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/rng.h"
#include "transport/transport.h"

namespace conclave::collective {

class MemoryFabric {
 public:
  MemoryFabric(std::size_t n_ranks, std::uint64_t seed);

  // Rank `rank`'s end; lives as long as the fabric.
  transport::Transport& at(transport::Rank rank) { return *ends_[rank]; }
  void interrupt(transport::Rank rank);
  // All others lose this rank.
  void kill(transport::Rank rank);
  // A message with these bytes, whatever they are.
  void inject(transport::Rank from, transport::Rank to, const wire::DataHeader& header,
              std::span<const std::byte> payload);

  std::atomic<std::size_t> n_deadlines = 0;  // that passed without a message

 private:
  struct Queued {
    wire::DataHeader header;
    std::vector<std::byte> payload;
  };
  class End;

  std::mutex mutex_;
  std::condition_variable changed_;
  SplitMix random_;
  std::vector<std::vector<std::deque<Queued>>> queues_;  // [to][from]
  std::vector<bool> interrupted_;
  std::optional<transport::Rank> killed_;
  std::vector<std::unique_ptr<transport::Transport>> ends_;
};

class MemoryFabric::End final : public transport::Transport {
 public:
  End(MemoryFabric& fabric, transport::Rank rank) : fabric_(fabric), rank_(rank) {}

  transport::Rank rank() const override { return rank_; }
  std::size_t n_ranks() const override { return fabric_.queues_.size(); }
  void send(transport::Rank to, const wire::DataHeader& header,
            std::span<const std::span<const std::byte>> parts) override {
    std::vector<std::byte> payload;
    for (const auto& part : parts) payload.insert(payload.end(), part.begin(), part.end());
    fabric_.inject(rank_, to, header, payload);
  }
  transport::Received receive(Time deadline) override;
  void flush(Time) override {}
  std::span<const transport::LinkStats> stats() const override { return {}; }

 private:
  // What is there to report, nullopt: nothing yet.
  std::optional<transport::Received> ready();

  MemoryFabric& fabric_;
  transport::Rank rank_;
  Queued held_;
};

inline MemoryFabric::MemoryFabric(std::size_t n_ranks, std::uint64_t seed)
    : random_(seed), queues_(n_ranks), interrupted_(n_ranks, false) {
  for (std::size_t rank = 0; rank < n_ranks; ++rank) {
    queues_[rank].resize(n_ranks);
    ends_.push_back(std::make_unique<End>(*this, static_cast<transport::Rank>(rank)));
  }
}

inline void MemoryFabric::interrupt(transport::Rank rank) {
  const std::lock_guard lock(mutex_);
  interrupted_[rank] = true;
  changed_.notify_all();
}

inline void MemoryFabric::kill(transport::Rank rank) {
  const std::lock_guard lock(mutex_);
  killed_ = rank;
  changed_.notify_all();
}

inline void MemoryFabric::inject(transport::Rank from, transport::Rank to,
                                 const wire::DataHeader& header,
                                 std::span<const std::byte> payload) {
  const std::lock_guard lock(mutex_);
  queues_[to][from].push_back({header, {payload.begin(), payload.end()}});
  changed_.notify_all();
}

inline transport::Received MemoryFabric::End::receive(Time deadline) {
  std::unique_lock lock(fabric_.mutex_);
  for (;;) {
    if (auto received = ready()) return *std::move(received);
    if (fabric_.changed_.wait_until(lock, deadline) == std::cv_status::timeout) {
      ++fabric_.n_deadlines;
      return {.kind = transport::Received::Kind::kDeadline, .message = {}, .lost = 0, .reason = {}};
    }
  }
}

inline std::optional<transport::Received> MemoryFabric::End::ready() {
  transport::Received received;
  if (fabric_.interrupted_[rank_]) {
    received.kind = transport::Received::Kind::kInterrupted;
    return received;
  }
  if (fabric_.killed_ && *fabric_.killed_ != rank_) {
    received.kind = transport::Received::Kind::kPeerLost;
    received.lost = *fabric_.killed_;
    received.reason = "connection closed";
    return received;
  }
  auto& queues = fabric_.queues_[rank_];
  const std::size_t first = fabric_.random_.next() % queues.size();
  for (std::size_t i = 0; i < queues.size(); ++i) {
    const std::size_t from = (first + i) % queues.size();
    if (queues[from].empty()) continue;
    held_ = std::move(queues[from].front());
    queues[from].pop_front();
    received.kind = transport::Received::Kind::kMessage;
    received.message = {static_cast<transport::Rank>(from), held_.header, held_.payload};
    return received;
  }
  return std::nullopt;
}

}  // namespace conclave::collective
