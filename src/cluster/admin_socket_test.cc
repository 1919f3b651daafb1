#include "cluster/admin_socket.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace conclave::cluster {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class AdminSocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "conclave-admin-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    auto state = StateDir::open(dir_);
    ASSERT_TRUE(state.has_value());
    state_.emplace(std::move(state).value());
  }
  void TearDown() override {
    server_.reset();
    state_.reset();
    fs::remove_all(dir_);
  }

  void start(AdminServer::Handler handler) {
    auto server = AdminServer::create(*state_, std::move(handler));
    ASSERT_TRUE(server.has_value()) << server.error().message;
    server_ = std::move(server).value();
  }

  // A client in a thread of its own, while the server runs in this one.
  Result<std::string> request(std::string_view json, Duration timeout = 10s) {
    std::optional<Result<std::string>> answer;
    std::atomic<bool> done = false;
    std::thread client([&] {
      answer.emplace(admin_request(dir_, json, timeout));
      done = true;
    });
    while (!done) serve_for(5ms);
    client.join();
    return *answer;
  }

  void serve_for(std::chrono::milliseconds time) {
    pollfd item{.fd = server_->fd(), .events = POLLIN, .revents = 0};
    ::poll(&item, 1, static_cast<int>(time.count()));
    server_->poll(now_);
  }

  FileDescriptor bare() const {
    FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = dir_ / "admin.sock";
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return socket;
  }

  // What a bare client gets until the server ends the connection; empty: nothing within a while.
  std::string read_all(const FileDescriptor& socket) {
    std::string all;
    for (int i = 0; i < 400; ++i) {
      serve_for(5ms);
      std::array<char, 4096> bytes{};
      const ssize_t n = ::recv(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
      if (n == 0) break;
      if (n > 0) all.append(bytes.data(), static_cast<std::size_t>(n));
    }
    return all;
  }

  Time now_{1h};
  fs::path dir_;
  std::optional<StateDir> state_;
  std::unique_ptr<AdminServer> server_;
};

TEST_F(AdminSocketTest, AnswersWithOneLine) {
  std::string seen;
  start([&seen](std::string_view request) {
    seen = request;
    return std::string("{\n  \"ok\": true\n}");
  });
  const auto answer = request("{\"do\":\n \"pool\"}");
  ASSERT_TRUE(answer.has_value()) << answer.error().message;
  EXPECT_EQ(*answer, "{   \"ok\": true }");
  EXPECT_EQ(seen, "{\"do\":  \"pool\"}");
}

TEST_F(AdminSocketTest, OnlyItsOwnerMayOpenIt) {
  start([](std::string_view) { return std::string("{}"); });
  struct stat info = {};
  ASSERT_EQ(stat((dir_ / "admin.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(AdminSocketTest, SaysThatNoAgentRuns) {
  const auto never = admin_request(dir_, "{}", 1s);
  ASSERT_FALSE(never.has_value());
  EXPECT_EQ(never.error().code, ErrorCode::kNotFound);
  EXPECT_NE(never.error().message.find("no conclave agent runs"), std::string::npos);
  EXPECT_EQ(admin_request(dir_ / "missing", "{}", 1s).error().code, ErrorCode::kNotFound);

  start([](std::string_view) { return std::string("{}"); });
  server_.reset();
  EXPECT_FALSE(fs::exists(dir_ / "admin.sock"));
  EXPECT_EQ(admin_request(dir_, "{}", 1s).error().code, ErrorCode::kNotFound);
}

TEST_F(AdminSocketTest, TakesThePlaceOfADeadAgentsSocket) {
  {
    // Bound and never unlinked, as after a kill.
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = dir_ / "admin.sock";
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    const FileDescriptor dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  EXPECT_EQ(admin_request(dir_, "{}", 1s).error().code, ErrorCode::kNotFound);
  start([](std::string_view) { return std::string("{}"); });
  EXPECT_TRUE(request("{}").has_value());
}

TEST_F(AdminSocketTest, WhatIsNoJsonDoesNotReachTheHandler) {
  int calls = 0;
  start([&calls](std::string_view) {
    ++calls;
    return std::string("{}");
  });
  EXPECT_NE(request("pool").value().find("\"error\""), std::string::npos);
  EXPECT_NE(request("").value().find("\"error\""), std::string::npos);
  // Deep nesting is no stack overflow.
  EXPECT_NE(request(std::string(1'000'000, '[')).value().find("\"error\""), std::string::npos);
  EXPECT_EQ(calls, 0);
}

TEST_F(AdminSocketTest, RequestsHaveALimit) {
  start([](std::string_view) { return std::string("{}"); });
  EXPECT_EQ(request(std::string(kAdminRequestMax, ' ')).error().code, ErrorCode::kInvalidInput);
  const FileDescriptor client = bare();
  const std::string part(64 << 10, ' ');
  for (int i = 0; i < 17; ++i) {
    for (std::string_view rest = part; !rest.empty();) {
      const ssize_t n = ::send(client.get(), rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n > 0) rest.remove_prefix(static_cast<std::size_t>(n));
      serve_for(0ms);
      if (n < 0 && errno != EAGAIN) break;
    }
  }
  EXPECT_NE(read_all(client).find("more than"), std::string::npos);
}

TEST_F(AdminSocketTest, ClientsHaveALimit) {
  start([](std::string_view) { return std::string("{}"); });
  std::vector<FileDescriptor> clients;
  for (std::size_t i = 0; i < kAdminClientsMax; ++i) {
    clients.push_back(bare());
    serve_for(0ms);
  }
  EXPECT_NE(read_all(bare()).find("busy"), std::string::npos);
  // Those that say nothing are closed, and there is room again.
  now_ += 11s;
  serve_for(0ms);
  EXPECT_EQ(read_all(clients[0]), "");
  EXPECT_EQ(request("{}").value(), "{}");
}

TEST_F(AdminSocketTest, LargeAnswersArrive) {
  std::string large = "\"" + std::string(5 << 20, 'x') + "\"";
  start([&large](std::string_view) { return large; });
  const auto answer = request("{}");
  ASSERT_TRUE(answer.has_value()) << answer.error().message;
  EXPECT_EQ(*answer, large);
}

TEST_F(AdminSocketTest, SeveralLinesAreAnsweredInOrder) {
  start([](std::string_view request) { return std::string(request); });
  const FileDescriptor client = bare();
  ASSERT_EQ(::send(client.get(), "1\n2\n3\n", 6, 0), 6);
  ::shutdown(client.get(), SHUT_WR);
  EXPECT_EQ(read_all(client), "1\n2\n3\n");
}

TEST_F(AdminSocketTest, AnAgentThatHangsIsReported) {
  start([](std::string_view) { return std::string("{}"); });
  // Nobody calls poll().
  const auto answer = admin_request(dir_, "{}", 50ms);
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(answer.error().message.find("does not answer"), std::string::npos);
}

TEST_F(AdminSocketTest, ALongPathIsAnError) {
  const fs::path deep = dir_ / std::string(100, 'd');
  auto state = StateDir::open(deep);
  ASSERT_TRUE(state.has_value());
  const auto server =
      AdminServer::create(*state, [](std::string_view) { return std::string("{}"); });
  ASSERT_FALSE(server.has_value());
  EXPECT_NE(server.error().message.find("--state DIR"), std::string::npos);
}

}  // namespace
}  // namespace conclave::cluster
