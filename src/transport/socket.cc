#include "transport/socket.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

namespace conclave::transport {
namespace {

constexpr int kBacklog = 256;
constexpr int kRepetitionsMin = 2;     // one may be answered in a moment
constexpr int kBufferBytes = 1 << 20;  // at least the messages of one exchange of many rows

void set_option(int fd, int level, int name, int value) {
  // Refused on other families than TCP and on kernels without the option: the link works without.
  setsockopt(fd, level, name, &value, sizeof value);
}

// Whether the kernel grants the size. A smaller grant would be worse than its own tuning, which it
// gives up for a socket whose size was set.
bool grants_buffers(int name) {
  const Socket probe(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  set_option(probe.get(), SOL_SOCKET, name, kBufferBytes);
  int granted = 0;
  socklen_t size = sizeof granted;
  return getsockopt(probe.get(), SOL_SOCKET, name, &granted, &size) == 0 && granted >= kBufferBytes;
}

// Before connect() and listen(), because the window's scale is fixed by the first packets.
void set_buffers(int fd) {
  for (const int name : {SO_SNDBUF, SO_RCVBUF}) {
    if (grants_buffers(name)) set_option(fd, SOL_SOCKET, name, kBufferBytes);
  }
}

Result<std::vector<Address>> look_up(const std::string& host, std::uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(),
                                &hints, &found);
  if (error != 0) return unavailable("no address of '" + host + "': " + gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  std::vector<Address> addresses;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    if (info->ai_addrlen > sizeof(sockaddr_storage)) continue;
    Address& address = addresses.emplace_back();
    std::memcpy(&address.storage, info->ai_addr, info->ai_addrlen);
    address.size = info->ai_addrlen;
  }
  if (addresses.empty()) return unavailable("no address of '" + host + "'");
  return addresses;
}

const sockaddr* as_sockaddr(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address.storage);
}

Result<Socket> listen_at(const Address& address) {
  const int family = address.storage.ss_family;
  Socket listener(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.open()) return unavailable(error_text(errno));
  set_option(listener.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (family == AF_INET6) set_option(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  set_buffers(listener.get());
  if (::bind(listener.get(), as_sockaddr(address), address.size) != 0 ||
      ::listen(listener.get(), kBacklog) != 0) {
    return unavailable(error_text(errno));
  }
  return listener;
}

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int Socket::release() { return std::exchange(fd_, -1); }

void Socket::reset() {
  if (fd_ >= 0) ::close(release());
}

Result<std::vector<Address>> resolve(const std::string& host, std::uint16_t port) {
  return look_up(host, port, 0);
}

std::string peer_text(int fd) {
  Address address;
  address.size = sizeof address.storage;
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.size) != 0 ||
      getnameinfo(as_sockaddr(address), address.size, host.data(), host.size(), port.data(),
                  port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "an unknown address";
  }
  const bool brackets = std::strchr(host.data(), ':') != nullptr;
  return (brackets ? "[" + std::string(host.data()) + "]" : std::string(host.data())) + ":" +
         port.data();
}

Result<Socket> listen_on(const std::string& host, std::uint16_t port) {
  std::vector<Address> addresses = TRY(look_up(host, port, AI_PASSIVE));
  // One IPv6 listener takes IPv4 connections too, not the other way round.
  std::stable_partition(addresses.begin(), addresses.end(), [&host](const Address& address) {
    return host.empty() && address.storage.ss_family == AF_INET6;
  });
  std::string reason;
  for (const Address& address : addresses) {
    Result<Socket> listener = listen_at(address);
    if (listener) return listener;
    reason = listener.error().message;
  }
  return unavailable("cannot listen on " + (host.empty() ? "any address" : host) + ", port " +
                     std::to_string(port) + ": " + reason);
}

std::uint16_t local_port(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) == 0);
  if (storage.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

Socket start_connect(const Address& address, Duration user_timeout) {
  Socket socket(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.open()) return socket;
  set_buffers(socket.get());
  set_link_options(socket.get(), user_timeout);
  if (::connect(socket.get(), as_sockaddr(address), address.size) != 0 && errno != EINPROGRESS) {
    const int error = errno;
    socket.reset();
    errno = error;
  }
  return socket;
}

int connect_error(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

bool is_connected(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  return getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &size) == 0;
}

void set_link_options(int fd, Duration user_timeout) {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 2);
  set_user_timeout(fd, user_timeout);
}

void set_user_timeout(int fd, Duration user_timeout) {
  const auto timeout = std::chrono::duration_cast<std::chrono::milliseconds>(user_timeout).count();
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(timeout));
}

Duration unanswered_for(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return {};
  // Both are counted from the last answer: repetitions of data, and probes of a full peer.
  if (info.tcpi_retransmits + info.tcpi_probes < kRepetitionsMin) return {};
  return std::chrono::milliseconds(info.tcpi_last_ack_recv);
}

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

// The sanitizer's check of the category needs a pipe, and one of the errors is that there are no
// descriptors left.
__attribute__((no_sanitize("vptr"))) std::string error_text(int error) {
  return std::generic_category().message(error);
}

}  // namespace conclave::transport
