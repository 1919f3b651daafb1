#include "cluster/worker_channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>
#include <thread>

namespace conclave::cluster {
namespace {

class Channel : public testing::Test {
 protected:
  Channel() {
    std::array<int, 2> pair{};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()), 0);
    agent_ = FileDescriptor(pair[0]);
    channel_ = std::make_unique<WorkerChannel>(pair[1]);
  }
  void write_raw(const std::string& bytes) {
    ASSERT_EQ(::write(agent_.get(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
  }

  FileDescriptor agent_;
  std::unique_ptr<WorkerChannel> channel_;
};

wire::pb::ToWorker cancel(std::uint64_t id) {
  wire::pb::ToWorker message;
  message.mutable_cancel()->set_request(id);
  return message;
}

TEST_F(Channel, NothingThereIsAnEmptyAnswerNotAWait) {
  const auto messages = channel_->receive(false);
  ASSERT_TRUE(messages);
  EXPECT_TRUE(messages.value().empty());
}

TEST_F(Channel, HandsOutWholeMessagesInOrder) {
  std::string bytes;
  for (std::uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(wire::append_frame(cancel(id), bytes));
  const std::string last = bytes.substr(bytes.size() - 1);
  write_raw(bytes.substr(0, bytes.size() - 1));
  const auto first = channel_->receive(true);
  ASSERT_TRUE(first);
  ASSERT_EQ(first.value().size(), 2u);
  EXPECT_EQ(first.value()[1].cancel().request(), 2u);
  write_raw(last);
  const auto second = channel_->receive(true);
  ASSERT_TRUE(second);
  ASSERT_EQ(second.value().size(), 1u);
  EXPECT_EQ(second.value()[0].cancel().request(), 3u);
}

TEST_F(Channel, TheAgentsEndIsAnErrorOnBothSides) {
  agent_.reset();
  const auto messages = channel_->receive(true);
  ASSERT_FALSE(messages);
  EXPECT_EQ(messages.error().code, ErrorCode::kUnavailable);
  EXPECT_FALSE(channel_->send(wire::pb::FromWorker()));
}

TEST_F(Channel, ABrokenFrameIsAnError) {
  write_raw(std::string("\xff\xff\xff\xff", 4));
  const auto messages = channel_->receive(true);
  ASSERT_FALSE(messages);
  EXPECT_EQ(messages.error().code, ErrorCode::kCorrupt);
}

TEST_F(Channel, TwoThreadsNeverMixTheirFrames) {
  constexpr std::size_t kEach = 2000;
  const auto send_many = [this](bool heartbeats) {
    for (std::size_t i = 0; i < kEach; ++i) {
      wire::pb::FromWorker message;
      if (heartbeats) {
        message.mutable_heartbeat()->set_progress(i);
      } else {
        message.mutable_failed()->set_error(std::string(i % 300, 'x'));
      }
      ASSERT_TRUE(channel_->send(message));
    }
  };
  std::thread one(send_many, true);
  std::thread two(send_many, false);
  wire::FrameReader reader;
  std::size_t seen = 0;
  std::array<char, 4096> bytes;
  while (seen < 2 * kEach) {
    const ssize_t n = ::read(agent_.get(), bytes.data(), bytes.size());
    ASSERT_GT(n, 0);
    reader.push({bytes.data(), static_cast<std::size_t>(n)});
    for (;;) {
      const auto payload = reader.next();
      ASSERT_TRUE(payload);
      if (!payload.value()) break;
      ASSERT_TRUE(wire::parse<wire::pb::FromWorker>(*payload.value()));
      ++seen;
    }
  }
  one.join();
  two.join();
}

}  // namespace
}  // namespace conclave::cluster
