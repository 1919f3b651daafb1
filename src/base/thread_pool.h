// Pinned threads for loops of independent chunks.
//
//   pool.parallel_for(n_chunks, [&](std::size_t chunk, std::size_t thread) { ... });
//
// Each thread walks its own run of neighbouring chunks, which lets hardware prefetch weights from
// one chunk into the next, and then helps the others. Chunks are taken one at a time, so a thread
// that the system runs slowly takes fewer of them, and the caller never waits for a thread that
// holds none: a core taken by another program costs its share and no more. Idle threads spin for a
// few tens of microseconds (the gap between two loops of a decode step) and then sleep.
//
// Threads: one thread calls parallel_for at a time; the body runs on the caller and the workers.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace conclave {

class ThreadPool {
 public:
  // `threads` includes the caller; 0 means one per core this process may use. The caller and the
  // workers are pinned to one core each while there are enough cores; the caller until the pool's
  // end, which must be on its thread.
  // `busy` below 1 is for measurements: each thread pauses after a chunk so that it works so much
  // of the time, as on a slower machine.
  explicit ThreadPool(std::size_t threads, double busy = 1.0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t size() const { return workers_.size() + 1; }

  // Calls body(chunk, thread) for chunk in [0, n_chunks), thread in [0, size()). Returns when all
  // are done. Fewer than 2^32 - 1 chunks.
  template <class Body>
  void parallel_for(std::size_t n_chunks, const Body& body) {
    run(
        n_chunks,
        [](const void* context, std::size_t chunk, std::size_t thread) {
          (*static_cast<const Body*>(context))(chunk, thread);
        },
        &body);
  }

 private:
  using Function = void (*)(const void* context, std::size_t chunk, std::size_t thread);

  void run(std::size_t n_chunks, Function function, const void* context);
  bool take_and_run(std::uint32_t generation, std::size_t thread);
  bool take_from(std::size_t share, std::uint32_t generation, std::size_t thread);
  void set_tickets(std::uint32_t generation, std::size_t n_chunks);
  void call(Function function, const void* context, std::size_t chunk, std::size_t thread);
  void work(std::size_t thread);

  // A thread's run of chunks: generation in the high half, next chunk in the low half.
  struct alignas(64) Share {
    std::atomic<std::uint64_t> ticket{0};
  };

  // The current loop. A thread reads the fields, then takes a chunk by compare-and-swap on a
  // share's ticket: success proves that the loop is still the one whose fields it read. Relaxed
  // atomics because a late thread may read fields of the next loop before its swap fails.
  std::atomic<Function> function_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<std::uint32_t> n_chunks_{0};
  std::unique_ptr<Share[]> shares_;  // one for each thread
  alignas(64) std::atomic<std::uint32_t> done_{0};
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // what sleeping workers wait on
  std::atomic<bool> stop_{false};
  double busy_;
  std::vector<std::int64_t> owed_ns_;  // pauses that each thread has not made yet
  std::vector<std::thread> workers_;
  bool pinned_ = false;  // the caller is
};

// The cores this process may run on, as found at the first call.
const std::vector<int>& usable_cores();

}  // namespace conclave
