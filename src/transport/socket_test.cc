#include "transport/socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <utility>

namespace conclave::transport {
namespace {

bool wait_writable(const Socket& socket) {
  pollfd fd{socket.get(), POLLOUT, 0};
  return poll(&fd, 1, 10'000) == 1;
}

TEST(Socket, AnyFreePortIsListenedOnAndReached) {
  for (const std::string host : {"127.0.0.1", "localhost", ""}) {
    const auto listener = listen_on(host, 0);
    ASSERT_TRUE(listener) << listener.error().message;
    const std::uint16_t port = local_port(listener->get());
    EXPECT_NE(port, 0);
    const auto addresses = resolve("127.0.0.1", port).value();
    const Socket socket = start_connect(addresses.front(), std::chrono::seconds(2));
    ASSERT_TRUE(socket.open());
    ASSERT_TRUE(wait_writable(socket));
    if (host == "localhost" && connect_error(socket.get()) != 0) continue;  // it is ::1 there
    EXPECT_TRUE(is_connected(socket.get()));
    EXPECT_EQ(peer_text(socket.get()), "127.0.0.1:" + std::to_string(port));
  }
}

TEST(Socket, NobodyThereIsAnErrorOfTheConnection) {
  std::uint16_t port = 0;
  {
    const auto listener = listen_on("127.0.0.1", 0);
    port = local_port(listener->get());
  }
  const Socket socket = start_connect(resolve("127.0.0.1", port)->front(), std::chrono::seconds(2));
  if (!socket.open()) return;  // said so at once
  ASSERT_TRUE(wait_writable(socket));
  EXPECT_EQ(connect_error(socket.get()), ECONNREFUSED);
}

TEST(Socket, ErrorsNameWhatWasAskedFor) {
  EXPECT_NE(resolve("no.such.host.invalid", 1).error().message.find("no.such.host.invalid"),
            std::string::npos);
  const auto listener = listen_on("127.0.0.1", 0);
  const std::uint16_t port = local_port(listener->get());
  const auto taken = listen_on("127.0.0.1", port);
  ASSERT_FALSE(taken);
  EXPECT_NE(taken.error().message.find(std::to_string(port)), std::string::npos);
}

TEST(Socket, LinkOptionsAreSet) {
  const auto listener = listen_on("127.0.0.1", 0);
  const auto addresses = resolve("127.0.0.1", local_port(listener->get())).value();
  const Socket socket = start_connect(addresses.front(), std::chrono::milliseconds(2500));
  const auto option = [&socket](int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    getsockopt(socket.get(), level, name, &value, &size);
    return value;
  };
  EXPECT_EQ(option(IPPROTO_TCP, TCP_NODELAY), 1);
  EXPECT_EQ(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 2500);
  EXPECT_EQ(option(SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(option(IPPROTO_TCP, TCP_KEEPIDLE), 1);
  EXPECT_EQ(option(IPPROTO_TCP, TCP_KEEPINTVL), 1);
  EXPECT_EQ(option(IPPROTO_TCP, TCP_KEEPCNT), 2);
}

TEST(Socket, OwnsItsDescriptor) {
  Socket a(dup(0));
  const int fd = a.get();
  Socket b = std::move(a);
  EXPECT_FALSE(a.open());  // NOLINT(bugprone-use-after-move): that is the question
  EXPECT_EQ(b.get(), fd);
  b.reset();
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

}  // namespace
}  // namespace conclave::transport
