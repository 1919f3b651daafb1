// The server's one thread: timers, descriptors and signals, on Boost.Asio, which only
// event_loop.cc and http_server.cc see.
#pragma once

#include <functional>
#include <memory>

#include "base/clock.h"

namespace conclave::server {

class EventLoop {
 public:
  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // All callbacks run inside run(), until stop().
  void every(Duration period, std::function<void()> callback);
  // Whenever `fd` is readable; the descriptor stays the caller's and must outlive the loop.
  void watch(int fd, std::function<void()> callback);
  // SIGINT and SIGTERM, each time.
  void on_signal(std::function<void(int)> callback);
  void post(std::function<void()> callback);  // any thread

  void run();   // returns after stop()
  void stop();  // any thread

  struct Impl;
  Impl& impl() { return *impl_; }  // for http_server.cc

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace conclave::server
