#include "server/event_loop.h"

#include <fcntl.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <utility>

#include "base/check.h"
#include "server/event_loop_impl.h"

namespace conclave::server {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

// Each of these keeps itself alive through the handler that waits (hence shared_ptr), and goes with
// the io_context.
class Repeater : public std::enable_shared_from_this<Repeater> {
 public:
  Repeater(asio::io_context& context, Duration period, std::function<void()> callback)
      : timer_(context), period_(period), callback_(std::move(callback)) {}

  void wait() {
    timer_.expires_after(period_);
    timer_.async_wait([self = shared_from_this()](error_code error) {
      if (error) return;
      self->callback_();
      self->wait();
    });
  }

 private:
  asio::steady_timer timer_;
  Duration period_;
  std::function<void()> callback_;
};

class Watcher : public std::enable_shared_from_this<Watcher> {
 public:
  Watcher(asio::io_context& context, int fd, std::function<void()> callback)
      : descriptor_(context, fd), callback_(std::move(callback)) {}

  void wait() {
    descriptor_.async_wait(asio::posix::descriptor_base::wait_read,
                           [self = shared_from_this()](error_code error) {
                             if (error) return;
                             self->callback_();
                             self->wait();
                           });
  }

 private:
  asio::posix::stream_descriptor descriptor_;
  std::function<void()> callback_;
};

class Signals : public std::enable_shared_from_this<Signals> {
 public:
  Signals(asio::io_context& context, std::function<void(int)> callback)
      : set_(context), callback_(std::move(callback)) {
    error_code error;
    set_.add(SIGINT, error);
    CHECK(!error);
    set_.add(SIGTERM, error);
    CHECK(!error);
  }

  void wait() {
    set_.async_wait([self = shared_from_this()](error_code error, int signal) {
      if (error) return;
      self->callback_(signal);
      self->wait();
    });
  }

 private:
  asio::signal_set set_;
  std::function<void(int)> callback_;
};

}  // namespace

EventLoop::EventLoop() : impl_(std::make_unique<Impl>()) {}
EventLoop::~EventLoop() = default;

void EventLoop::every(Duration period, std::function<void()> callback) {
  std::make_shared<Repeater>(impl_->context, period, std::move(callback))->wait();
}

void EventLoop::watch(int fd, std::function<void()> callback) {
  // Asio closes what it owns, so it gets a copy.
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  CHECK(copy >= 0);
  std::make_shared<Watcher>(impl_->context, copy, std::move(callback))->wait();
}

void EventLoop::on_signal(std::function<void(int)> callback) {
  std::make_shared<Signals>(impl_->context, std::move(callback))->wait();
}

void EventLoop::post(std::function<void()> callback) {
  asio::post(impl_->context, std::move(callback));
}

void EventLoop::run() {
  const auto guard = asio::make_work_guard(impl_->context);
  impl_->context.restart();
  impl_->context.run();
}

void EventLoop::stop() { impl_->context.stop(); }

}  // namespace conclave::server
