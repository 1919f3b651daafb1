#include "transport/waiting.h"

#include <ctime>

namespace conclave::transport {

void poll_until(std::vector<pollfd>& fds, const Clock& clock, Time deadline) {
  using std::chrono::nanoseconds;
  using std::chrono::seconds;
  timespec timeout{};
  const timespec* limit = nullptr;
  if (deadline != Time::max()) {
    const auto left = std::max(nanoseconds(0), nanoseconds(deadline - clock.now()));
    const auto whole = std::chrono::duration_cast<seconds>(left);
    timeout.tv_sec = static_cast<std::time_t>(whole.count());
    timeout.tv_nsec = static_cast<long>((left - whole).count());
    limit = &timeout;
  }
  if (ppoll(fds.data(), fds.size(), limit, nullptr) > 0) return;
  for (pollfd& fd : fds) fd.revents = 0;  // after an error they are not defined
}

void add_watch(std::vector<pollfd>& fds, const Watch* watch) {
  if (watch != nullptr && watch->fd() >= 0) fds.push_back({watch->fd(), POLLIN, 0});
}

bool watch_interrupts(const std::vector<pollfd>& fds, Watch* watch) {
  if (watch == nullptr) return false;
  const bool asked = watch->fd() < 0 || (!fds.empty() && fds.back().revents != 0);
  return asked && watch->interrupted();
}

}  // namespace conclave::transport
