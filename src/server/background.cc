#include "server/background.h"

#include <algorithm>
#include <string>
#include <utility>

namespace conclave::server {

Background::Background(EventLoop& loop, BackgroundLimits limits)
    : loop_(loop), limits_(limits), thread_([this] { run(); }) {}

Background::~Background() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Result<void> Background::submit(Key key, std::size_t bytes, Work work) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= limits_.waiting_max) {
      return exhausted(std::to_string(waiting_.size()) +
                       " requests wait to be read; that is the limit");
    }
    if (bytes > limits_.waiting_bytes_max - waiting_bytes_) {
      return exhausted("requests of " + std::to_string(waiting_bytes_ + bytes) +
                       " bytes would wait to be read; the limit is " +
                       std::to_string(limits_.waiting_bytes_max));
    }
    waiting_bytes_ += bytes;
    waiting_.push_back({.key = key, .bytes = bytes, .work = std::move(work)});
  }
  wake_.notify_one();
  return {};
}

void Background::cancel(Key key) {
  const std::lock_guard lock(mutex_);
  const auto job = std::find_if(waiting_.begin(), waiting_.end(),
                                [key](const Job& waiting) { return waiting.key == key; });
  if (job == waiting_.end()) return;
  waiting_bytes_ -= job->bytes;
  waiting_.erase(job);
}

void Background::run() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
      if (ending_) return;
      job = std::move(waiting_.front());
      waiting_.pop_front();
      waiting_bytes_ -= job.bytes;
    }
    loop_.post(job.work());
  }
}

}  // namespace conclave::server
