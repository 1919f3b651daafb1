// poll() with a deadline, and with the watch.
#pragma once

#include <poll.h>

#include <vector>

#include "base/clock.h"
#include "transport/transport.h"

namespace conclave::transport {

// Polls until something happens or the deadline, Time::max() being none. An empty or negative time
// asks once. A signal counts as something.
void poll_until(std::vector<pollfd>& fds, const Clock& clock, Time deadline);

// Appends the watch's descriptor, if there is one.
void add_watch(std::vector<pollfd>& fds, const Watch* watch);

// Whether the watch ends this epoch, after a poll of `fds`, where add_watch() came last.
bool watch_interrupts(const std::vector<pollfd>& fds, Watch* watch);

}  // namespace conclave::transport
