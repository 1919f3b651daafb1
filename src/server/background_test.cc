#include "server/background.h"

#include <gtest/gtest.h>

#include <future>
#include <vector>

namespace conclave::server {
namespace {

using namespace std::chrono_literals;

// A job that runs until the test lets it go.
class Gate {
 public:
  Background::Work work(const Background::Done& done) {
    return [this, done] {
      begun_.set_value();
      // A test that would hang fails instead.
      EXPECT_EQ(opened_.wait_for(10s), std::future_status::ready);
      return done;
    };
  }
  void wait_begun() { begun_.get_future().wait(); }
  void open() { open_.set_value(); }

 private:
  std::promise<void> begun_;
  std::promise<void> open_;
  std::future<void> opened_ = open_.get_future();
};

TEST(Background, TheLoopGoesOnWhileAJobRuns) {
  EventLoop loop;
  Gate gate;
  Background background(loop);
  int ticks = 0;
  bool done = false;
  ASSERT_TRUE(background.submit(1, 0, gate.work([&] {
    done = true;
    loop.stop();
  })));
  loop.every(1ms, [&] {
    if (++ticks == 5) gate.open();  // only the loop lets the job end
  });
  loop.run();
  EXPECT_TRUE(done);
  EXPECT_GE(ticks, 5);
}

TEST(Background, JobsAreDoneInOrderAndACancelledOneNeverRuns) {
  EventLoop loop;
  Gate gate;
  Background background(loop);
  std::vector<int> done;
  ASSERT_TRUE(background.submit(1, 0, gate.work([&] { done.push_back(1); })));
  gate.wait_begun();
  for (const int key : {2, 3, 4}) {
    ASSERT_TRUE(
        background.submit(static_cast<Background::Key>(key), 0, [&, key]() -> Background::Done {
          EXPECT_NE(key, 3);
          return [&, key] {
            done.push_back(key);
            if (key == 4) loop.stop();
          };
        }));
  }
  background.cancel(3);
  background.cancel(99);
  gate.open();
  loop.run();
  EXPECT_EQ(done, (std::vector<int>{1, 2, 4}));
}

TEST(Background, WhatWaitsIsLimitedAndCancelMakesRoom) {
  EventLoop loop;
  Gate gate;
  Background background(loop, {.waiting_max = 2, .waiting_bytes_max = 100});
  const Background::Work nothing = [] { return [] {}; };
  ASSERT_TRUE(background.submit(1, 100, gate.work([] {})));
  gate.wait_begun();  // it runs: what waits is counted anew
  ASSERT_TRUE(background.submit(2, 60, nothing));
  EXPECT_EQ(background.submit(3, 41, nothing).error().code, ErrorCode::kExhausted);
  ASSERT_TRUE(background.submit(4, 40, nothing));
  EXPECT_EQ(background.submit(5, 0, nothing).error().code, ErrorCode::kExhausted);
  background.cancel(2);
  EXPECT_TRUE(background.submit(6, 60, nothing));
  gate.open();
}

}  // namespace
}  // namespace conclave::server
