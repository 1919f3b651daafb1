// Monotonic time, injected: only main() makes a RealClock, tests make a ManualClock.
#pragma once

#include <chrono>

namespace conclave {

using Time = std::chrono::time_point<std::chrono::steady_clock>;
using Duration = std::chrono::steady_clock::duration;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time now() const = 0;
};

class RealClock final : public Clock {
 public:
  Time now() const override { return std::chrono::steady_clock::now(); }
};

class ManualClock final : public Clock {
 public:
  Time now() const override { return now_; }
  void advance(Duration by) { now_ += by; }

 private:
  Time now_{};
};

inline double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace conclave
