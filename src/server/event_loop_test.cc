#include "server/event_loop.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <thread>
#include <vector>

namespace conclave::server {
namespace {

using namespace std::chrono_literals;

TEST(EventLoop, RunsTimersUntilStopped) {
  EventLoop loop;
  int ticks = 0;
  loop.every(1ms, [&loop, &ticks] {
    if (++ticks == 5) loop.stop();
  });
  loop.run();
  EXPECT_EQ(ticks, 5);
}

TEST(EventLoop, SeesADescriptorEachTimeItIsReadable) {
  EventLoop loop;
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  std::vector<char> seen;
  loop.watch(ends[0], [&loop, &ends, &seen] {
    char byte = 0;
    ASSERT_EQ(::read(ends[0], &byte, 1), 1);
    seen.push_back(byte);
    if (seen.size() == 3) loop.stop();
  });
  // Two at once: what is left over must wake the loop again.
  ASSERT_EQ(::write(ends[1], "ab", 2), 2);
  std::thread writer([&ends] { EXPECT_EQ(::write(ends[1], "c", 1), 1); });
  loop.run();
  writer.join();
  EXPECT_EQ(seen, (std::vector<char>{'a', 'b', 'c'}));
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(EventLoop, HandsOutSignals) {
  EventLoop loop;
  std::vector<int> seen;
  loop.on_signal([&loop, &seen](int signal) {
    seen.push_back(signal);
    if (seen.size() == 2) return loop.stop();
    ::raise(SIGTERM);
  });
  loop.post([] { ::raise(SIGINT); });
  loop.run();
  EXPECT_EQ(seen, (std::vector<int>{SIGINT, SIGTERM}));
}

TEST(EventLoop, StopFromAnotherThreadEndsAnIdleLoop) {
  EventLoop loop;
  std::thread other([&loop] { loop.post([&loop] { loop.stop(); }); });
  loop.run();
  other.join();
}

}  // namespace
}  // namespace conclave::server
