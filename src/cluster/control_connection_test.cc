#include "cluster/control_connection.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

namespace conclave::cluster {
namespace {

using transport::SecureStream;
using Side = ControlConnection::Side;
using Step = ControlConnection::Step;

constexpr std::size_t kQueueMax = std::size_t{8} << 20;

wire::pb::PairRequest message(std::size_t n_bytes) {
  wire::pb::PairRequest out;
  out.set_token(std::string(n_bytes, 'x'));
  return out;
}

// Both ends of one connection in clear: what TLS adds is tested with the hub.
class ControlConnectionTest : public ::testing::Test {
 protected:
  void make(ControlConnection::Options caller, ControlConnection::Options acceptor) {
    std::array<int, 2> fds{};
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
    caller.side = Side::kCaller;
    acceptor.side = Side::kAcceptor;
    caller.queue_max = acceptor.queue_max = kQueueMax;
    caller_ = std::make_unique<ControlConnection>(SecureStream::clear(fds[0]), caller);
    acceptor_ = std::make_unique<ControlConnection>(SecureStream::clear(fds[1]), acceptor);
  }

  // An acceptor whose peer is a bare socket.
  void make_bare() {
    std::array<int, 2> fds{};
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
    bare_ = fds[0];
    acceptor_ = std::make_unique<ControlConnection>(
        SecureStream::clear(fds[1]), ControlConnection::Options{.queue_max = kQueueMax});
  }
  void TearDown() override {
    if (bare_ >= 0) ::close(bare_);
  }
  void write_bare(std::string_view bytes) const {
    ASSERT_EQ(::send(bare_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  void open() {
    ASSERT_EQ(caller_->advance(), Step::kIdle);
    ASSERT_EQ(acceptor_->advance(), Step::kAsked);
    acceptor_->accept();
    ASSERT_EQ(acceptor_->advance(), Step::kOpened);
    ASSERT_EQ(caller_->advance(), Step::kOpened);
  }

  std::unique_ptr<ControlConnection> caller_;
  std::unique_ptr<ControlConnection> acceptor_;
  int bare_ = -1;
};

TEST(WireVersions, AgreeOverOnePreviousVersion) {
  EXPECT_TRUE(wire_versions_agree(3, 3));
  EXPECT_TRUE(wire_versions_agree(3, 2));
  EXPECT_TRUE(wire_versions_agree(2, 3));
  EXPECT_FALSE(wire_versions_agree(3, 1));
  EXPECT_FALSE(wire_versions_agree(0, 0xffffffffu));
}

TEST_F(ControlConnectionTest, OpensAndCarriesFramesBothWays) {
  make({.purpose = Purpose::kPair, .build = "caller 1"}, {.build = "acceptor 2"});
  open();
  EXPECT_EQ(acceptor_->purpose(), Purpose::kPair);
  EXPECT_EQ(acceptor_->peer_build(), "caller 1");
  EXPECT_EQ(caller_->peer_build(), "acceptor 2");
  EXPECT_EQ(caller_->peer_wire_version(), kWireVersion);

  caller_->send(message(5));
  caller_->send(message(6));
  ASSERT_EQ(acceptor_->advance(), Step::kFrame);
  EXPECT_EQ(wire::parse<wire::pb::PairRequest>(acceptor_->payload())->token().size(), 5u);
  ASSERT_EQ(acceptor_->advance(), Step::kFrame);
  EXPECT_EQ(wire::parse<wire::pb::PairRequest>(acceptor_->payload())->token().size(), 6u);
  EXPECT_EQ(acceptor_->advance(), Step::kIdle);
  acceptor_->send(message(7));
  EXPECT_EQ(caller_->advance(), Step::kFrame);
}

TEST_F(ControlConnectionTest, ALargeFrameTakesSeveralTurns) {
  make({}, {});
  open();
  caller_->send(message(4 << 20));
  EXPECT_TRUE(caller_->wants_write());
  bool whole = false;
  for (int i = 0; i < 10'000 && !whole; ++i) {
    caller_->advance();
    whole = acceptor_->advance() == Step::kFrame;
  }
  ASSERT_TRUE(whole);
  EXPECT_FALSE(caller_->wants_write());
  EXPECT_EQ(wire::parse<wire::pb::PairRequest>(acceptor_->payload())->token().size(),
            std::size_t{4} << 20);
}

TEST_F(ControlConnectionTest, BothSidesSayThatOneNeedsAnUpgrade) {
  make({.wire_version = 3, .build = "0.5"}, {.wire_version = 1, .build = "0.3"});
  ASSERT_EQ(caller_->advance(), Step::kIdle);
  ASSERT_EQ(acceptor_->advance(), Step::kIdle);
  ASSERT_EQ(caller_->advance(), Step::kClosed);
  ASSERT_EQ(acceptor_->advance(), Step::kClosed);
  for (const std::string& reason : {caller_->reason(), acceptor_->reason()}) {
    EXPECT_NE(reason.find("needs upgrade"), std::string::npos) << reason;
    EXPECT_NE(reason.find("0.3"), std::string::npos) << reason;
  }
  EXPECT_NE(caller_->reason().find("the other machine is too old"), std::string::npos);
  EXPECT_NE(acceptor_->reason().find("this machine is too old"), std::string::npos);
}

TEST_F(ControlConnectionTest, OneVersionApartIsNoObstacle) {
  make({.wire_version = 3}, {.wire_version = 2});
  open();
}

TEST_F(ControlConnectionTest, TheRefusedOneLearnsWhy) {
  make({}, {});
  ASSERT_EQ(caller_->advance(), Step::kIdle);
  ASSERT_EQ(acceptor_->advance(), Step::kAsked);
  acceptor_->refuse("no\x1b[31m room");
  EXPECT_EQ(acceptor_->advance(), Step::kIdle);
  EXPECT_EQ(caller_->advance(), Step::kClosed);
  EXPECT_EQ(caller_->reason(), "refused: no [31m room");
  EXPECT_EQ(acceptor_->advance(), Step::kClosed);
  EXPECT_FALSE(acceptor_->opened());
}

TEST_F(ControlConnectionTest, AStrangerSaysOneSmallThing) {
  make({}, {});
  open();
  acceptor_->limit_frames(100, 1);
  caller_->send(message(50));
  ASSERT_EQ(acceptor_->advance(), Step::kFrame);
  caller_->send(message(50));
  EXPECT_EQ(acceptor_->advance(), Step::kClosed);
  EXPECT_NE(acceptor_->reason().find("more messages"), std::string::npos);

  make({}, {});
  open();
  acceptor_->limit_frames(100, 1);
  caller_->send(message(100));  // two more bytes around it
  EXPECT_EQ(acceptor_->advance(), Step::kClosed);

  // Refused before it is whole.
  make({}, {});
  open();
  acceptor_->limit_frames(100, 1);
  caller_->send(message(std::size_t{4} << 20));
  EXPECT_EQ(acceptor_->advance(), Step::kClosed);
}

TEST_F(ControlConnectionTest, WhatIsNoOpenEndsIt) {
  make_bare();
  write_bare("GET / HTTP/1.1\r\n\r\n");
  EXPECT_EQ(acceptor_->advance(), Step::kClosed);
  EXPECT_NE(acceptor_->reason().find("no conclave Open"), std::string::npos);

  ::close(bare_);
  make_bare();
  write_bare(std::string_view("\x02\0\0\0\xff\xff", 6));
  EXPECT_EQ(acceptor_->advance(), Step::kClosed);

  ::close(bare_);
  make_bare();
  write_bare(std::string_view("\0\0\0\0", 4));  // an empty message: version 0, no purpose
  EXPECT_EQ(acceptor_->advance(), Step::kIdle);
  EXPECT_TRUE(acceptor_->finishing());
  EXPECT_NE(acceptor_->reason().find("unknown purpose"), std::string::npos);
}

TEST_F(ControlConnectionTest, AnOpenMayComeByteByByte) {
  make_bare();
  wire::pb::Open hello;
  hello.set_purpose(wire::pb::PURPOSE_CONTROL);
  hello.set_wire_version(kWireVersion);
  std::string bytes;
  ASSERT_TRUE(wire::append_frame(hello, bytes).has_value());
  for (std::size_t i = 0; i + 1 < bytes.size(); ++i) {
    write_bare(bytes.substr(i, 1));
    ASSERT_EQ(acceptor_->advance(), Step::kIdle);
  }
  write_bare(bytes.substr(bytes.size() - 1));
  EXPECT_EQ(acceptor_->advance(), Step::kAsked);
}

TEST_F(ControlConnectionTest, NotAByteOfABulkStreamIsRead) {
  make_bare();
  wire::pb::Open hello;
  hello.set_purpose(wire::pb::PURPOSE_BULK);
  hello.set_wire_version(kWireVersion);
  std::string bytes;
  ASSERT_TRUE(wire::append_frame(hello, bytes).has_value());
  write_bare(bytes + "weights");
  ASSERT_EQ(acceptor_->advance(), Step::kAsked);
  acceptor_->accept();
  ASSERT_EQ(acceptor_->advance(), Step::kOpened);
  EXPECT_EQ(acceptor_->advance(), Step::kIdle);
  SecureStream stream = acceptor_->take();
  EXPECT_TRUE(acceptor_->closed());
  std::array<std::byte, 100> rest{};
  EXPECT_EQ(stream.read_some(rest).bytes, 7u);
}

TEST_F(ControlConnectionTest, APeerThatDoesNotReadIsGivenUp) {
  make({}, {});
  open();
  for (int i = 0; i < 100 && !caller_->closed(); ++i) caller_->send(message(1 << 20));
  ASSERT_TRUE(caller_->closed());
  EXPECT_NE(caller_->reason().find("does not take"), std::string::npos);
}

TEST_F(ControlConnectionTest, FinishWritesWhatIsQueuedFirst) {
  make({}, {});
  open();
  caller_->send(message(2 << 20));
  caller_->finish("all said");
  caller_->send(message(1));    // too late: ignored
  acceptor_->send(message(3));  // not read any more, and no harm
  std::vector<Step> seen;
  for (int i = 0; i < 10'000 && !(caller_->closed() && acceptor_->closed()); ++i) {
    caller_->advance();
    if (acceptor_->closed()) continue;
    const Step step = acceptor_->advance();
    if (step == Step::kFrame || step == Step::kClosed) seen.push_back(step);
  }
  EXPECT_EQ(seen, (std::vector<Step>{Step::kFrame, Step::kClosed}));
  EXPECT_EQ(caller_->reason(), "all said");
  EXPECT_EQ(acceptor_->reason(), "connection closed");
}

TEST_F(ControlConnectionTest, WhatCameBeforeTheEndIsRead) {
  make({}, {});
  open();
  caller_->send(message(1));
  caller_->close("gone");
  EXPECT_EQ(acceptor_->advance(), Step::kFrame);
  EXPECT_EQ(acceptor_->advance(), Step::kClosed);
}

}  // namespace
}  // namespace conclave::cluster
