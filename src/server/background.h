// One thread for what takes long before an answer can begin: reading JSON, rendering, tokenising,
// checking grammars. The loop goes on meanwhile.
//
//   background.submit(key, body.size(), [..]() -> Background::Done {
//     compute;                                   // on the thread
//     return [..] { use what was computed; };    // on the loop
//   });
//
// One thread, because the machine's cores are the worker's. Jobs run in the order in which they
// came; one that is slow delays those behind it, never the loop.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "base/result.h"
#include "server/event_loop.h"

namespace conclave::server {

struct BackgroundLimits {
  std::size_t waiting_max = 256;                           // jobs; more is kExhausted
  std::size_t waiting_bytes_max = std::size_t{256} << 20;  // that they hold; more is kExhausted
};

class Background {
 public:
  using Key = std::uint64_t;
  using Done = std::function<void()>;
  using Work = std::function<Done()>;

  // `loop` must outlive this object.
  explicit Background(EventLoop& loop, BackgroundLimits limits = {});
  // Waits for the job that runs; those that wait are dropped.
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // From any thread. `bytes`: what the job holds while it waits. kExhausted: a limit is reached.
  Result<void> submit(Key key, std::size_t bytes, Work work);
  // Drops the job if it still waits. One that runs ends as it would: its Done has to see for itself
  // that nobody wants it any more.
  void cancel(Key key);

 private:
  struct Job {
    Key key = 0;
    std::size_t bytes = 0;
    Work work;
  };
  void run();

  EventLoop& loop_;
  BackgroundLimits limits_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> waiting_;
  std::size_t waiting_bytes_ = 0;
  bool ending_ = false;
  std::thread thread_;  // last: it starts when the rest is there
};

}  // namespace conclave::server
