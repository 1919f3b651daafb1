#include "cluster/worker_channel.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
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
  return write(bytes, -1);
}

bool WorkerChannel::keep(const std::string& name, int memory) {
  wire::pb::FromWorker message;
  message.mutable_keep()->set_name(name);
  std::string bytes;
  CHECK(wire::append_frame(message, bytes).has_value());
  return write(bytes, memory);
}

bool WorkerChannel::drop(const std::string& name) {
  wire::pb::FromWorker message;
  message.mutable_keep()->set_name(name);
  message.mutable_keep()->set_drop(true);
  return send(message);
}

// A descriptor, if any, travels with the first byte.
bool WorkerChannel::write(std::string_view bytes, int descriptor) {
  const std::lock_guard lock(send_mutex_);
  while (!bytes.empty()) {
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    if (descriptor >= 0) {
      header.msg_control = control.data();
      header.msg_controllen = control.size();
      cmsghdr* rights = CMSG_FIRSTHDR(&header);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
    }
    const ssize_t sent = ::sendmsg(fd_.get(), &header, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    descriptor = -1;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
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
