#include "cluster/admin_socket.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

namespace conclave::cluster {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSocketName = "admin.sock";
constexpr Duration kPatience = std::chrono::seconds(10);
constexpr int kBacklog = 16;

std::string reason(int error) { return std::generic_category().message(error); }

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

Result<sockaddr_un> socket_address(const fs::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string& text = path.native();
  if (text.size() >= sizeof address.sun_path) {
    return invalid_input(text + " is too long for a socket (at most " +
                         std::to_string(sizeof address.sun_path - 1) +
                         " characters); name a shorter folder with --state DIR");
  }
  std::memcpy(address.sun_path, text.c_str(), text.size() + 1);
  return address;
}

// A line break can only stand between the tokens of a JSON document.
std::string one_line(std::string json) {
  std::replace_if(
      json.begin(), json.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  json.push_back('\n');
  return json;
}

std::string error_line(const std::string& message) {
  return one_line(nlohmann::json{{"error", message}}.dump());
}

void set_timeout(int fd, Duration timeout) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(timeout).count();
  const timeval value{.tv_sec = us / 1'000'000, .tv_usec = us % 1'000'000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof value);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &value, sizeof value);
}

Error lost(int error, const fs::path& path) {
  if (would_block(error)) return unavailable("the agent at " + path.string() + " does not answer");
  return unavailable("the agent at " + path.string() + " broke off: " + reason(error));
}

Result<FileDescriptor> call_agent(const fs::path& path, Duration timeout) {
  const sockaddr_un address = TRY(socket_address(path));
  FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.open()) return unavailable("cannot make a socket: " + reason(errno));
  set_timeout(socket.get(), timeout);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return socket;
  }
  switch (errno) {
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
      return not_found("no conclave agent runs with the state folder " +
                       path.parent_path().string() +
                       "; start one with `conclave serve` or `conclave node`, or name its folder "
                       "with --state DIR");
    case EACCES:
    case EPERM:
      return invalid_input("the agent at " + path.string() + " belongs to another user");
    default:
      return lost(errno, path);
  }
}

}  // namespace

// --- the agent's side -------------------------------------------------------------------------

AdminServer::AdminServer(fs::path path, Handler handler, FileDescriptor listener,
                         FileDescriptor epoll)
    : path_(std::move(path)),
      handler_(std::move(handler)),
      listener_(std::move(listener)),
      epoll_(std::move(epoll)) {
  watch(listener_.get(), EPOLLIN, EPOLL_CTL_ADD);
}

AdminServer::~AdminServer() { ::unlink(path_.c_str()); }

Result<std::unique_ptr<AdminServer>> AdminServer::create(const StateDir& state, Handler handler) {
  const fs::path path = state.path() / kSocketName;
  const sockaddr_un address = TRY(socket_address(path));
  FileDescriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  FileDescriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  TRY(state.remove(kSocketName));
  // The mode of the descriptor becomes the file's: there is no moment at which others may open it.
  if (!listener.open() || !epoll.open() || fchmod(listener.get(), 0600) != 0 ||
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      chmod(path.c_str(), 0600) != 0 || ::listen(listener.get(), kBacklog) != 0) {
    return unavailable("cannot make " + path.string() + ": " + reason(errno));
  }
  return std::unique_ptr<AdminServer>(
      new AdminServer(path, std::move(handler), std::move(listener), std::move(epoll)));
}

void AdminServer::watch(int fd, std::uint32_t events, int operation) const {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  CHECK(epoll_ctl(epoll_.get(), operation, fd, &event) == 0);
}

void AdminServer::poll(Time now) {
  std::array<epoll_event, kAdminClientsMax + 1> events{};
  const int n = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  bool incoming = false;
  for (int i = 0; i < n; ++i) {
    const int fd = events[static_cast<std::size_t>(i)].data.fd;
    if (fd == listener_.get()) {
      incoming = true;
    } else if (const auto client = clients_.find(fd);
               client != clients_.end() && !serve(client->second, now)) {
      clients_.erase(client);
    }
  }
  std::erase_if(clients_, [now](const auto& item) { return now >= item.second.deadline; });
  if (incoming) take_clients(now);
}

void AdminServer::take_clients(Time now) {
  for (std::size_t i = 0; i < kAdminClientsMax; ++i) {
    FileDescriptor socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.open()) return;
    if (clients_.size() == kAdminClientsMax) {
      const std::string line = error_line("the agent is busy with other commands; try again");
      static_cast<void>(::send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL));
      continue;
    }
    const int fd = socket.get();
    watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    clients_.insert_or_assign(fd, Client{.socket = std::move(socket),
                                         .in = {},
                                         .out = {},
                                         .deadline = now + kPatience,
                                         .watched = EPOLLIN});
  }
}

bool AdminServer::serve(Client& client, Time now) {
  if (!client.last && !read_some(client, now)) return false;
  do {
    answer_next(client);
    if (!write_some(client, now)) return false;
  } while (client.out.empty() && client.in.find('\n') != std::string::npos);
  // One answer at a time: a client that does not take it is not heard.
  const std::uint32_t events = client.out.empty() ? EPOLLIN : EPOLLOUT;
  if (events != client.watched) watch(client.socket.get(), events, EPOLL_CTL_MOD);
  client.watched = events;
  return true;
}

bool AdminServer::read_some(Client& client, Time now) {
  if (!client.out.empty()) return true;
  std::array<char, 64 << 10> bytes;
  const ssize_t n = ::recv(client.socket.get(), bytes.data(), bytes.size(), 0);
  if (n < 0) return errno == EINTR || would_block(errno);
  if (n == 0) return false;
  client.in.append(bytes.data(), static_cast<std::size_t>(n));
  client.deadline = now + kPatience;
  return true;
}

bool AdminServer::write_some(Client& client, Time now) {
  if (client.out.empty()) return true;
  const ssize_t n = ::send(client.socket.get(), client.out.data(), client.out.size(), MSG_NOSIGNAL);
  if (n < 0) return errno == EINTR || would_block(errno);
  client.out.erase(0, static_cast<std::size_t>(n));
  client.deadline = now + kPatience;
  return !(client.last && client.out.empty());
}

void AdminServer::answer_next(Client& client) {
  if (!client.out.empty()) return;
  if (const std::size_t end = client.in.find('\n'); end != std::string::npos) {
    client.out = answer(std::string_view(client.in).substr(0, end));
    client.in.erase(0, end + 1);
  } else if (client.in.size() > kAdminRequestMax) {
    client.in.clear();
    client.out =
        error_line("a request of more than " + std::to_string(kAdminRequestMax) + " bytes");
    client.last = true;
  }
}

std::string AdminServer::answer(std::string_view request) const {
  if (request.size() > kAdminRequestMax) return error_line("the request is too long");
  if (!nlohmann::json::accept(request)) return error_line("the request is no JSON document");
  std::string document = handler_(request);
  if (document.size() >= kAdminAnswerMax) return error_line("the answer is too long");
  CHECK(nlohmann::json::accept(document));
  return one_line(std::move(document));
}

// --- the command's side -----------------------------------------------------------------------

Result<std::string> admin_request(const fs::path& dir, std::string_view json, Duration timeout) {
  if (json.size() >= kAdminRequestMax) return invalid_input("the request is too long");
  const fs::path path = dir / kSocketName;
  const FileDescriptor socket = TRY(call_agent(path, timeout));
  const std::string line = one_line(std::string(json));
  for (std::string_view rest = line; !rest.empty();) {
    const ssize_t n = ::send(socket.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return lost(errno, path);
    rest.remove_prefix(static_cast<std::size_t>(n));
  }
  std::string answer;
  std::array<char, 64 << 10> bytes;
  while (answer.size() <= kAdminAnswerMax) {
    const ssize_t n = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return lost(errno, path);
    if (n == 0) return unavailable("the agent at " + path.string() + " ended");
    answer.append(bytes.data(), static_cast<std::size_t>(n));
    if (!answer.ends_with('\n')) continue;
    answer.pop_back();
    return answer;
  }
  return corrupt("the agent at " + path.string() + " answers without an end");
}

}  // namespace conclave::cluster
