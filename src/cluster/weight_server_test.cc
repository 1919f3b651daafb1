// What clients may do to a server. What it gives: weight_fetch_test.cc.
#include "cluster/weight_server.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "cluster/bulk_session.h"
#include "cluster/test_weights.h"

namespace conclave::cluster {
namespace {

using transport::SecureStream;
using namespace std::chrono_literals;

const RealClock kClock;

// A client that may say anything, in clear.
class Client {
 public:
  explicit Client(WeightServer& server, std::string name = "client") {
    std::array<int, 2> fds{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
    fd_ = fds[0];
    timeval limit{.tv_sec = 20, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    server.add(SecureStream::clear(fds[1]), std::move(name));
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { ::close(fd_); }

  void say(std::span<const std::byte> bytes) const {
    EXPECT_EQ(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  void say(const BulkRequest& request) const { say(encode(request)); }
  void say_model() const {
    say(BulkRequest{.kind = BulkKind::kModel, .id = 1, .model = ember().fingerprint()});
    EXPECT_EQ(hear().kind, BulkKind::kModel);
  }

  // The next answer, its bytes in `text`. kModel without an id: the connection ended.
  BulkAnswer hear() const {
    std::array<std::byte, kBulkAnswerSize> header;
    if (!read(header)) return {};
    const auto answer = decode_answer(header);
    EXPECT_TRUE(answer) << answer.error().message;
    text.assign(answer->bytes, '\0');
    EXPECT_TRUE(read(std::as_writable_bytes(std::span(text))));
    EXPECT_EQ(hash_of(std::as_bytes(std::span(text))), answer->hash);
    return *answer;
  }
  bool ended() const {
    std::byte byte;
    return ::recv(fd_, &byte, 1, 0) <= 0;
  }

  mutable std::string text;

 private:
  bool read(std::span<std::byte> out) const {
    while (!out.empty()) {
      const ssize_t n = ::recv(fd_, out.data(), out.size(), 0);
      if (n <= 0) return false;
      out = out.subspan(static_cast<std::size_t>(n));
    }
    return true;
  }

  int fd_ = -1;
};

BulkRequest embedding_rows(std::uint64_t id) {
  BulkRequest request{.kind = BulkKind::kPart, .id = id};
  request.part = backend::PackedPart{
      {},
      model::Weight::kEmbedding,
      {},
      {0, 4096},
      {0, ember().config().hidden_size},
      false,
      kernels::native_format(ember().matrix({}, model::Weight::kEmbedding).format)};
  return request;
}

bool soon(const auto& done) {
  for (int i = 0; i < 2000; ++i) {
    if (done()) return true;
    ::poll(nullptr, 0, 5);
  }
  return false;
}

TEST(WeightServer, AnswersInTheOrderOfTheRequests) {
  WeightServer server({&ember()}, kClock, {});
  const Client client(server);
  client.say_model();
  for (std::uint64_t id = 10; id < 20; ++id) {
    if (id % 2 == 0) {
      client.say(embedding_rows(id));
    } else {
      client.say(BulkRequest{.kind = BulkKind::kSkeletonBytes, .id = id, .bytes = 16});
    }
  }
  for (std::uint64_t id = 10; id < 20; ++id) EXPECT_EQ(client.hear().id, id);
  EXPECT_EQ(server.n_connections(), 1u);
}

TEST(WeightServer, GarbageIsAnsweredWithTheReason) {
  WeightServer server({&ember()}, kClock, {});
  const Client client(server);
  client.say_model();
  std::array<std::byte, kBulkRequestSize> garbage;
  garbage.fill(std::byte{0x77});
  client.say(garbage);
  EXPECT_EQ(client.hear().kind, BulkKind::kRefused);
  EXPECT_NE(client.text.find("kind 119"), std::string::npos) << client.text;
  EXPECT_TRUE(client.ended());
  const Client next(server, "next");
  next.say_model();
}

TEST(WeightServer, AnUnknownModelIsRefused) {
  WeightServer server({&ember()}, kClock, {});
  const Client client(server);
  client.say(BulkRequest{.kind = BulkKind::kModel, .id = 1, .model = 5});
  const BulkAnswer answer = client.hear();
  EXPECT_EQ(answer.kind, BulkKind::kRefused);
  EXPECT_EQ(answer.code, ErrorCode::kNotFound);
  EXPECT_TRUE(client.ended());
}

TEST(WeightServer, TheModelComesFirst) {
  WeightServer server({&ember()}, kClock, {});
  const Client client(server);
  client.say(embedding_rows(3));
  EXPECT_EQ(client.hear().kind, BulkKind::kRefused);
  EXPECT_NE(client.text.find("which model"), std::string::npos);
  EXPECT_TRUE(client.ended());
}

// What waits to be packed is of the model that was named before it.
TEST(WeightServer, TheModelIsNamedOnce) {
  WeightServer server({&ember()}, kClock, {});
  const Client client(server);
  const BulkRequest model{.kind = BulkKind::kModel, .id = 1, .model = ember().fingerprint()};
  const BulkRequest unknown{.kind = BulkKind::kModel, .id = 3, .model = 7};
  std::vector<std::byte> all;
  for (const BulkRequest& request : {model, embedding_rows(2), unknown}) {
    const auto bytes = encode(request);
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  client.say(all);
  EXPECT_EQ(client.hear().kind, BulkKind::kModel);
  EXPECT_EQ(client.hear().kind, BulkKind::kPart);
  EXPECT_EQ(client.hear().kind, BulkKind::kRefused);
  EXPECT_TRUE(client.ended());
}

TEST(WeightServer, WhatTheModelDoesNotHaveIsRefusedAndTheRestIsAnswered) {
  WeightServer server({&ember()}, kClock, {});
  const Client client(server);
  client.say_model();
  BulkRequest wrong = embedding_rows(4);
  wrong.part->cols = {0, 64};
  client.say(wrong);
  client.say(BulkRequest{
      .kind = BulkKind::kSkeletonBytes, .id = 5, .offset = kSkeletonBytesMax, .bytes = 1});
  client.say(embedding_rows(6));
  EXPECT_EQ(client.hear().code, ErrorCode::kInvalidInput);
  EXPECT_EQ(client.hear().kind, BulkKind::kRefused);
  EXPECT_EQ(client.hear().kind, BulkKind::kPart);
}

TEST(WeightServer, TooManyRequestsEndTheConnection) {
  WeightServer server({&ember()}, kClock, {.requests_max = 8});
  const Client client(server);
  client.say_model();
  std::vector<std::byte> all;
  for (std::uint64_t id = 0; id < 20; ++id) {
    const auto request = encode(embedding_rows(100 + id));
    all.insert(all.end(), request.begin(), request.end());
  }
  client.say(all);
  bool refused = false;
  for (int i = 0; i < 20 && !refused; ++i) refused = client.hear().kind == BulkKind::kRefused;
  EXPECT_TRUE(refused);
  EXPECT_NE(client.text.find("more than 8"), std::string::npos) << client.text;
}

TEST(WeightServer, AClientThatTakesNothingIsDropped) {
  WeightServer server({&ember()}, kClock, {.stall_limit = 100ms});
  const Client client(server);
  client.say_model();
  for (std::uint64_t id = 0; id < 8; ++id) client.say(embedding_rows(id));
  ASSERT_TRUE(soon([&] { return server.n_connections() == 1; }));
  EXPECT_TRUE(soon([&] { return server.n_connections() == 0; }));
  EXPECT_LT(server.sent_bytes(), 8 * embedding_rows(0).part->size_bytes());
}

TEST(WeightServer, AClientThatAsksForNothingIsDropped) {
  WeightServer server({&ember()}, kClock, {.idle_limit = 100ms});
  const Client client(server);
  client.say_model();
  EXPECT_TRUE(client.ended());
  EXPECT_TRUE(soon([&] { return server.n_connections() == 0; }));
}

TEST(WeightServer, APeerHasTwoConnectionsAtMost) {
  WeightServer server({&ember()}, kClock, {});
  const Client first(server);
  first.say_model();
  const Client second(server);
  second.say_model();
  const Client third(server);
  third.say_model();
  EXPECT_TRUE(first.ended());
  second.say(embedding_rows(9));
  EXPECT_EQ(second.hear().id, 9u);
}

TEST(WeightServer, AllConnectionsHaveALimit) {
  WeightServer server({&ember()}, kClock, {.connections_max = 1});
  const Client first(server, "a");
  first.say_model();
  const Client second(server, "b");
  EXPECT_TRUE(second.ended());
  first.say(embedding_rows(9));
  EXPECT_EQ(first.hear().id, 9u);
}

TEST(WeightServer, WhoIsNoMemberAnyMoreIsDropped) {
  WeightServer server({&ember()}, kClock, {});
  const Client stays(server, "stays");
  const Client goes(server, "goes");
  stays.say_model();
  goes.say_model();
  server.drop("goes");
  EXPECT_TRUE(goes.ended());
  stays.say(embedding_rows(1));
  EXPECT_EQ(stays.hear().id, 1u);
}

TEST(WeightServer, EndsWhileItPacks) {
  std::optional<WeightServer> server;
  server.emplace(std::vector{&ember()}, kClock, WeightServerLimits{});
  const Client client(*server);
  client.say_model();
  for (std::uint64_t id = 0; id < 50; ++id) client.say(embedding_rows(id));
  server.reset();
  while (client.hear().id != 0) {
  }
}

}  // namespace
}  // namespace conclave::cluster
