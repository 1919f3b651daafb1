#include "cluster/worker_channel.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

namespace conclave::cluster {

bool WorkerChannel::send(std::span<const wire::pb::FromWorker> messages) {
  std::string bytes;
  for (const wire::pb::FromWorker& message : messages) {
    // What a worker says is small: a token with at most 20 alternatives, an error of one line.
    CHECK(wire::append_frame(message, bytes).has_value());
  }
  const std::lock_guard lock(send_mutex_);
  for (std::string_view rest = bytes; !rest.empty();) {
    const ssize_t sent = ::send(fd_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    rest.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

Result<bool> WorkerChannel::read_some(bool wait) {
  std::array<char, 64 << 10> bytes;
  for (;;) {
    const ssize_t n = ::recv(fd_.get(), bytes.data(), bytes.size(), wait ? 0 : MSG_DONTWAIT);
    if (n > 0) {
      reader_.push({bytes.data(), static_cast<std::size_t>(n)});
      return true;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    return unavailable("the agent is gone");
  }
}

Result<std::vector<wire::pb::ToWorker>> WorkerChannel::receive(bool wait) {
  std::vector<wire::pb::ToWorker> messages;
  while (TRY(read_some(wait && messages.empty()))) {
    while (const auto payload = TRY(reader_.next())) {
      messages.push_back(TRY(wire::parse<wire::pb::ToWorker>(*payload)));
    }
  }
  return messages;
}

}  // namespace conclave::cluster
