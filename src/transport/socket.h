// TCP sockets: an owner of a descriptor, addresses, and the options of links between ranks.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace conclave::transport {

// Owns one descriptor.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(other.release()) {}
  Socket& operator=(Socket&& other) noexcept;
  ~Socket() { reset(); }

  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

// All addresses of a host (IPv4, IPv6 or a name), in the order to try them; at least one. A name
// is looked up, which may block for seconds.
Result<std::vector<Address>> resolve(const std::string& host, std::uint16_t port);

// "10.0.0.2:7000" of the other end, for messages to people.
std::string peer_text(int fd);

// A nonblocking listener; an empty host: every address of the machine.
Result<Socket> listen_on(const std::string& host, std::uint16_t port);
std::uint16_t local_port(int fd);

// Nonblocking; not open: errno says why. Whether it succeeded is known when it is writable, and
// then connect_error() is 0.
Socket start_connect(const Address& address, Duration user_timeout);
int connect_error(int fd);
bool is_connected(int fd);

// No delay, keepalive 1/1/2 s, and `user_timeout` for what is not acknowledged: a cable that was
// pulled is noticed in about that time. But so is a peer that is too busy to read: for connections
// whose ends always read.
void set_link_options(int fd, Duration user_timeout);
// Zero: none.
void set_user_timeout(int fd, Duration user_timeout);
// How long the other machine has answered nothing although packets were repeated that it must
// answer, be its process busy or not. Zero: it answers, or nothing is asked, or it is not TCP.
Duration unanswered_for(int fd);

bool would_block(int error);
std::string error_text(int error);

}  // namespace conclave::transport
