#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <span>

#include "base/check.h"

namespace conclave {
namespace {

// Longer than the serial work between two parallel loops of a step, short against a time slice.
constexpr std::chrono::microseconds kSpin{50};
constexpr std::size_t kApart = 8;  // counters of different threads in different cache lines

// Shorter pauses than this are added up: the system cannot make them.
constexpr std::int64_t kPauseMinNs = 200'000;
// Time without a core, beyond the pauses due, that makes later pauses shorter.
constexpr std::int64_t kCreditMaxNs = 1'000'000;

void pause_for(std::int64_t ns) {
  const timespec length{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
  nanosleep(&length, nullptr);
}

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::int64_t thread_cpu_ns() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return used.tv_sec * 1'000'000'000 + used.tv_nsec;
}

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

// Spins until `ready` or the spin time is over; returns the last answer.
template <class Ready>
bool spin_until(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      pause_cpu();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

// Failure (a container that forbids it) costs speed only.
void allow_cores(pthread_t thread, std::span<const int> cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(core, &set);
  (void)pthread_setaffinity_np(thread, sizeof set, &set);
}

std::vector<int> cores_of_this_thread() {
  std::vector<int> cores;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return {0};
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

constexpr std::size_t kClosed = 0xffffffffu;  // a chunk beyond every loop

std::uint64_t ticket(std::uint32_t generation, std::size_t chunk) {
  return (static_cast<std::uint64_t>(generation) << 32) | chunk;
}

// Where the run of chunks of thread `share` begins; thread `threads` would begin at the end.
std::size_t share_begin(std::size_t n_chunks, std::size_t share, std::size_t threads) {
  return n_chunks * share / threads;
}

}  // namespace

const std::vector<int>& usable_cores() {
  // Asked once, before any pool narrows the calling thread to one core.
  static const std::vector<int> cores = cores_of_this_thread();
  return cores;
}

ThreadPool::ThreadPool(std::size_t threads, double busy) : busy_(busy) {
  CHECK(busy > 0.0 && busy <= 1.0);
  const std::span<const int> cores = usable_cores();
  if (threads == 0) threads = cores.size();
  owed_ns_.resize(threads * kApart);
  shares_ = std::make_unique<Share[]>(threads);
  pinned_ = threads > 1 && threads <= cores.size();
  for (std::size_t i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i] { work(i); });
    // A new thread inherits its maker's cores, which another pool may have narrowed.
    allow_cores(workers_.back().native_handle(), pinned_ ? cores.subspan(i, 1) : cores);
  }
  if (pinned_) allow_cores(pthread_self(), cores.first(1));
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  if (pinned_) allow_cores(pthread_self(), usable_cores());
}

void ThreadPool::call(Function function, const void* context, std::size_t chunk,
                      std::size_t thread) {
  if (busy_ == 1.0) return function(context, chunk, thread);
  const std::int64_t begin = now_ns();
  const std::int64_t cpu_begin = thread_cpu_ns();
  function(context, chunk, thread);
  const std::int64_t cpu = thread_cpu_ns() - cpu_begin;
  const std::int64_t end = now_ns();
  // Waiting for a core that another thread has is a pause too.
  std::int64_t& owed = owed_ns_[thread * kApart];
  owed += static_cast<std::int64_t>(static_cast<double>(cpu) / busy_) - (end - begin);
  owed = std::max(owed, -kCreditMaxNs);
  if (owed < kPauseMinNs) return;
  pause_for(owed);
  owed -= now_ns() - end;  // what the system slept too long counts for the next time
}

bool ThreadPool::take_and_run(std::uint32_t generation, std::size_t thread) {
  for (std::size_t i = 0; i < size(); ++i) {
    if (take_from((thread + i) % size(), generation, thread)) return true;
  }
  return false;
}

bool ThreadPool::take_from(std::size_t share, std::uint32_t generation, std::size_t thread) {
  std::atomic<std::uint64_t>& next = shares_[share].ticket;
  std::uint64_t seen = next.load(std::memory_order_acquire);
  for (;;) {
    if (static_cast<std::uint32_t>(seen >> 32) != generation) return false;
    const auto chunk = static_cast<std::uint32_t>(seen);
    const Function function = function_.load(std::memory_order_relaxed);
    const void* context = context_.load(std::memory_order_relaxed);
    const std::size_t n = n_chunks_.load(std::memory_order_acquire);
    if (chunk >= share_begin(n, share + 1, size())) return false;
    if (next.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel,
                                   std::memory_order_acquire)) {
      call(function, context, chunk, thread);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 ==
          n_chunks_.load(std::memory_order_relaxed)) {
        done_.notify_one();
      }
      return true;
    }
  }
}

void ThreadPool::set_tickets(std::uint32_t generation, std::size_t n_chunks) {
  for (std::size_t i = 0; i < size(); ++i) {
    const std::size_t chunk = n_chunks == kClosed ? kClosed : share_begin(n_chunks, i, size());
    shares_[i].ticket.store(ticket(generation, chunk), std::memory_order_release);
  }
}

void ThreadPool::run(std::size_t n_chunks, Function function, const void* context) {
  if (n_chunks == 0) return;
  CHECK(n_chunks < 0xffffffffu);
  if (workers_.empty() || n_chunks == 1) {
    for (std::size_t chunk = 0; chunk < n_chunks; ++chunk) call(function, context, chunk, 0);
    return;
  }
  const std::uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  const auto n = static_cast<std::uint32_t>(n_chunks);
  // Closes the old loop before its fields change, so that a late thread cannot mix the two.
  set_tickets(generation, kClosed);
  function_.store(function, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  // Release: whoever sees the new count also sees that the old loop is closed.
  n_chunks_.store(n, std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  set_tickets(generation, n);
  generation_.store(generation, std::memory_order_release);
  generation_.notify_all();
  while (take_and_run(generation, 0)) {
  }
  const auto finished = [this, n] { return done_.load(std::memory_order_acquire) == n; };
  if (spin_until(finished)) return;
  for (std::uint32_t done = done_.load(std::memory_order_acquire); done != n;
       done = done_.load(std::memory_order_acquire)) {
    done_.wait(done, std::memory_order_acquire);
  }
}

void ThreadPool::work(std::size_t thread) {
  std::uint32_t seen = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    const auto changed = [this, seen] {
      return generation_.load(std::memory_order_acquire) != seen;
    };
    if (!spin_until(changed)) generation_.wait(seen, std::memory_order_acquire);
    seen = generation_.load(std::memory_order_acquire);
    while (take_and_run(seen, thread)) {
    }
  }
}

}  // namespace conclave
