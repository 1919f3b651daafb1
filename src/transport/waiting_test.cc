#include "transport/waiting.h"

#include <gtest/gtest.h>

#include "transport/test_group.h"

namespace conclave::transport {
namespace {

using std::chrono::milliseconds;

// As in simulation: there is no descriptor, so it is asked every time.
class PlainWatch final : public Watch {
 public:
  int fd() const override { return -1; }
  bool interrupted() override { return stop; }
  bool stop = false;
};

TEST(Waiting, EndsAtTheDeadline) {
  const RealClock clock;
  TestWatch watch;
  std::vector<pollfd> fds;
  add_watch(fds, &watch);
  const Time deadline = in(milliseconds(10));
  poll_until(fds, clock, deadline);
  EXPECT_GE(clock.now(), deadline);
  poll_until(fds, clock, Time{});
  poll_until(fds, clock, clock.now());
  EXPECT_EQ(fds[0].revents, 0);
}

TEST(Waiting, EndsWhenTheWatchSpeaks) {
  const RealClock clock;
  TestWatch watch;
  std::vector<pollfd> fds;
  add_watch(fds, &watch);
  watch.say_something_else();
  poll_until(fds, clock, Time::max());
  EXPECT_NE(fds[0].revents, 0);
  EXPECT_FALSE(watch_interrupts(fds, &watch));
  watch.interrupt();
  poll_until(fds, clock, Time::max());
  EXPECT_TRUE(watch_interrupts(fds, &watch));
}

TEST(Waiting, NoWatchAndOneWithoutADescriptor) {
  const RealClock clock;
  std::vector<pollfd> fds;
  PlainWatch watch;
  add_watch(fds, nullptr);
  add_watch(fds, &watch);
  EXPECT_TRUE(fds.empty());
  poll_until(fds, clock, Time{});
  EXPECT_FALSE(watch_interrupts(fds, nullptr));
  EXPECT_FALSE(watch_interrupts(fds, &watch));
  watch.stop = true;
  EXPECT_TRUE(watch_interrupts(fds, &watch));
}

}  // namespace
}  // namespace conclave::transport
