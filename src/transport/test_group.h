// What the tests of fabrics share: messages, specifications, ranks that are threads, a watch.
#pragma once

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "transport/transport.h"

namespace conclave::transport {

using Bytes = std::vector<std::byte>;

inline Time in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

// Long enough for a machine under load; a test that succeeds waits for none of it.
inline Time soon() { return in(std::chrono::seconds(30)); }

// Bytes that depend on seed + i alone, so that a part of a stream can be told from another.
inline Bytes numbered(std::size_t size, std::size_t seed) {
  constexpr std::size_t kPeriod = 65'521;
  Bytes bytes(size);
  for (std::size_t i = 0; i < std::min(size, kPeriod); ++i) {
    bytes[i] = static_cast<std::byte>((seed + i) % kPeriod * 0x9e3779b97f4a7c15u >> 40);
  }
  for (std::size_t i = kPeriod; i < size; i += kPeriod) {
    std::memcpy(&bytes[i], &bytes[i - kPeriod], std::min(kPeriod, size - i));
  }
  return bytes;
}

inline void send(Transport& transport, Rank to, std::span<const std::byte> payload,
                 std::uint32_t step = 0) {
  transport.send(to, {.kind = wire::DataKind::kPartial, .layer = 3, .step = step},
                 std::span(&payload, 1));
}

// A copy of the next message's payload.
inline Bytes receive(Transport& transport, Rank from) {
  const Received received = transport.receive(soon());
  EXPECT_EQ(received.kind, Received::Kind::kMessage) << received.reason;
  if (received.kind != Received::Kind::kMessage) return {};
  EXPECT_EQ(received.message.from, from);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(received.message.payload.data()) % 8, 0u);
  return {received.message.payload.begin(), received.message.payload.end()};
}

// An epoch over some fabrics, one a rank.
struct TestGroup {
  GroupSpec spec;
  std::vector<Fabric*> fabrics;
  Time deadline = soon();

  using Joined = std::vector<Result<std::unique_ptr<Transport>>>;
  // All ranks join at once, each on a thread.
  Joined join(std::vector<Watch*> watches = {}) const {
    watches.resize(fabrics.size());
    std::vector<std::optional<Result<std::unique_ptr<Transport>>>> results(fabrics.size());
    std::vector<std::thread> threads;
    for (std::size_t rank = 0; rank < fabrics.size(); ++rank) {
      threads.emplace_back([this, rank, &watches, &results] {
        GroupSpec own = spec;
        own.rank = static_cast<Rank>(rank);
        results[rank] = fabrics[rank]->join(own, deadline, watches[rank]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    Joined joined;
    for (auto& result : results) joined.push_back(std::move(*result));
    return joined;
  }

  std::vector<std::unique_ptr<Transport>> transports(std::vector<Watch*> watches = {}) const {
    std::vector<std::unique_ptr<Transport>> transports;
    for (auto& result : join(std::move(watches))) {
      EXPECT_TRUE(result) << result.error().message;
      transports.push_back(result ? std::move(result).value() : nullptr);
    }
    return transports;
  }
};

// Runs `body(rank)` for each rank on a thread of its own.
inline void on_threads(std::size_t n_ranks, const std::function<void(Rank)>& body) {
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < n_ranks; ++rank) {
    threads.emplace_back(body, static_cast<Rank>(rank));
  }
  for (std::thread& thread : threads) thread.join();
}

class TestWatch final : public Watch {
 public:
  TestWatch() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  TestWatch(const TestWatch&) = delete;
  TestWatch& operator=(const TestWatch&) = delete;
  ~TestWatch() override { close(fd_); }

  int fd() const override { return fd_; }
  bool interrupted() override {
    eventfd_t value = 0;
    return eventfd_read(fd_, &value) == 0 && value >= kInterrupt;
  }

  // Any thread.
  void interrupt() const { ASSERT_EQ(eventfd_write(fd_, kInterrupt), 0); }
  void say_something_else() const { ASSERT_EQ(eventfd_write(fd_, 1), 0); }

 private:
  static constexpr eventfd_t kInterrupt = 1000;
  int fd_;
};

// Every rank sends to every other, and gets what was meant for it, in order.
inline void exchange_all_with_all(std::vector<std::unique_ptr<Transport>>& transports,
                                  std::size_t size, std::uint32_t n_messages) {
  const std::size_t n = transports.size();
  const auto content = [size](std::size_t from, std::size_t to, std::size_t step) {
    return numbered(size, 1000 * from + 100 * to + step);
  };
  on_threads(n, [&transports, n, n_messages, &content](Rank rank) {
    Transport& transport = *transports[rank];
    for (std::uint32_t step = 0; step < n_messages; ++step) {
      for (std::size_t to = 0; to < n; ++to) {
        if (to != rank) send(transport, static_cast<Rank>(to), content(rank, to, step), step);
      }
    }
    std::vector<std::uint32_t> next(n);
    for (std::size_t i = 0; i < n_messages * (n - 1); ++i) {
      const Received received = transport.receive(soon());
      ASSERT_EQ(received.kind, Received::Kind::kMessage) << received.reason;
      const Message& message = received.message;
      ASSERT_EQ(message.header.step, next[message.from]++);
      ASSERT_EQ(message.header.layer, 3);
      ASSERT_EQ(message.header.size, message.payload.size());
      ASSERT_TRUE(
          std::ranges::equal(message.payload, content(message.from, rank, message.header.step)));
    }
    transport.flush(soon());
  });
}

}  // namespace conclave::transport
