#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <numeric>

namespace conclave {
namespace {

TEST(ThreadPool, RunsEveryChunkExactlyOnce) {
  for (const std::size_t threads : {1u, 2u, 5u}) {
    ThreadPool pool(threads);
    for (std::size_t n = 0; n < 300; ++n) {
      std::vector<std::atomic<int>> hits(n);
      pool.parallel_for(n, [&](std::size_t chunk, std::size_t thread) {
        EXPECT_LT(thread, pool.size());
        hits[chunk].fetch_add(1);
      });
      for (const auto& hit : hits) ASSERT_EQ(hit.load(), 1);
    }
  }
}

TEST(ThreadPool, LoopsFollowEachOtherWithoutMixing) {
  ThreadPool pool(3);
  std::vector<std::uint64_t> values(7);
  for (std::uint64_t round = 1; round <= 20'000; ++round) {
    pool.parallel_for(values.size(),
                      [&](std::size_t chunk, std::size_t) { values[chunk] += round; });
  }
  for (const std::uint64_t value : values) EXPECT_EQ(value, 20'000u * 20'001u / 2);
}

TEST(ThreadPool, WakesWorkersThatSleep) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> total{0};
    pool.parallel_for(4, [&](std::size_t, std::size_t) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      total.fetch_add(1);
    });
    EXPECT_EQ(total.load(), 4);
  }
}

// A pool made by a thread that another pool has pinned must still use every core.
TEST(ThreadPool, APoolDoesNotNarrowTheNext) {
  if (usable_cores().size() < 2) GTEST_SKIP() << "needs two cores";
  ThreadPool first(2);
  ThreadPool second(2);
  std::vector<int> cores(2);
  std::atomic<int> arrived{0};
  second.parallel_for(2, [&](std::size_t chunk, std::size_t) {
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();  // holds each thread to one chunk
    cores[chunk] = sched_getcpu();
  });
  EXPECT_NE(cores[0], cores[1]);
}

std::chrono::nanoseconds thread_cpu_time() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

// Waiting for a core counts as a pause, so that a busy machine makes it no longer than it must be.
TEST(ThreadPool, APacedPoolWorksItsShareOfTheTime) {
  ThreadPool pool(1, 0.5);
  const auto begin = std::chrono::steady_clock::now();
  std::chrono::nanoseconds worked{};
  pool.parallel_for(40, [&](std::size_t, std::size_t) {
    const std::chrono::nanoseconds start = thread_cpu_time();
    while (thread_cpu_time() - start < std::chrono::microseconds(500)) {
    }
    worked += thread_cpu_time() - start;
  });
  const std::chrono::nanoseconds all = std::chrono::steady_clock::now() - begin;
  EXPECT_GT(all, worked * 19 / 10 - std::chrono::milliseconds(1));
}

}  // namespace
}  // namespace conclave
