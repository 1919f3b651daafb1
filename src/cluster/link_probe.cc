#include "cluster/link_probe.h"

#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fstream>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/file_descriptor.h"
#include "base/unix_time.h"
#include "cluster/membership.h"

namespace conclave::cluster {
namespace {

constexpr std::uint64_t kSmall = 64;  // bytes of a small message
constexpr std::size_t kWarmUp = 3;
// Each tells whether the next, larger one is worth its time.
constexpr std::array<std::uint64_t, 4> kLarge = {256u << 10, 4u << 20, 16u << 20, 16u << 20};

std::vector<std::byte> address_bytes(const sockaddr* address) {
  const auto copy = [](const auto& field) {
    const auto bytes = std::as_bytes(std::span(&field, 1));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  if (address->sa_family == AF_INET) {
    return copy(reinterpret_cast<const sockaddr_in*>(address)->sin_addr);
  }
  if (address->sa_family == AF_INET6) {
    return copy(reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  }
  return {};
}

// The interface that has this address.
std::string interface_of(const std::vector<std::byte>& wanted) {
  std::string name;
  ifaddrs* list = nullptr;
  if (wanted.empty() || getifaddrs(&list) != 0) return name;
  for (const ifaddrs* entry = list; entry != nullptr && name.empty(); entry = entry->ifa_next) {
    if (entry->ifa_addr != nullptr && address_bytes(entry->ifa_addr) == wanted) {
      name = entry->ifa_name;
    }
  }
  freeifaddrs(list);
  return name;
}

// Where the connection leaves this machine.
void describe_socket(int fd, LinkMeasurement& found) {
  sockaddr_storage own{};
  sockaddr_storage other{};
  socklen_t own_size = sizeof own;
  socklen_t other_size = sizeof other;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) != 0) return;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&other), &other_size) != 0) return;
  const auto here = address_bytes(reinterpret_cast<const sockaddr*>(&own));
  const auto there = address_bytes(reinterpret_cast<const sockaddr*>(&other));
  found.interface = here == there ? "lo" : interface_of(here);
  const bool v6 = own.ss_family == AF_INET6;
  int mtu = 0;
  socklen_t size = sizeof mtu;
  if (getsockopt(fd, v6 ? static_cast<int>(IPPROTO_IPV6) : static_cast<int>(IPPROTO_IP),
                 v6 ? IPV6_MTU : IP_MTU, &mtu, &size) == 0 &&
      mtu > 0) {
    found.path_mtu = static_cast<std::uint32_t>(mtu);
  }
  if (found.interface.empty()) return;
  const Card card = card_of("/sys/class/net", found.interface);
  found.interface_mtu = card.mtu;
  found.interface_mbit = card.mbit;
  found.wireless = card.wireless;
}

struct Echo {
  std::uint64_t unix_us = 0;
  Duration took{};  // of the bytes alone, without the wait for the first
};

class Probe {
 public:
  Probe(BulkLink link, const Clock& clock) : link_(std::move(link)), clock_(clock) {}

  Result<Echo> echo(std::uint64_t bytes) {
    TRY(link_.send(BulkRequest{.kind = BulkKind::kEcho, .id = ++id_, .bytes = bytes}));
    const BulkAnswer answer = TRY(link_.receive_header());
    if (answer.id != id_ || answer.bytes > kEchoMax) return corrupt("answers what nobody asked");
    if (room_.size() < answer.bytes) room_.resize(answer.bytes);
    const Time begin = clock_.now();
    TRY(link_.receive_bytes(answer, std::span(room_).first(answer.bytes)));
    if (answer.kind == BulkKind::kRefused) {
      return unsupported("does not measure: its build may be an older one");
    }
    if (answer.kind != BulkKind::kEcho || answer.bytes != bytes) {
      return corrupt("answers what nobody asked");
    }
    return Echo{answer.unix_us, clock_.now() - begin};
  }

  Result<void> measure_times(const ProbeLimits& limits, LinkMeasurement& found) {
    std::vector<double> times;
    double best = std::numeric_limits<double>::max();
    const Time end = clock_.now() + limits.echo_time;
    for (std::size_t i = 0; i < kWarmUp + limits.echoes; ++i) {
      if (times.size() >= limits.echoes_min && clock_.now() >= end) break;
      const std::uint64_t unix_us = unix_microseconds();
      const Time begin = clock_.now();
      const Echo answer = TRY(echo(kSmall));
      const double took = seconds(clock_.now() - begin);
      if (i < kWarmUp) continue;
      times.push_back(took);
      if (took >= best) continue;
      // The faster the answer, the better the middle is known.
      best = took;
      const auto ahead_us = static_cast<std::int64_t>(answer.unix_us - unix_us);
      found.clock_ahead_seconds = static_cast<double>(ahead_us) / 1e6 - took / 2.0;
    }
    std::ranges::sort(times);
    found.rtt_seconds = times[times.size() / 2];
    found.rtt_slow_seconds = times[(times.size() * 95) / 100];
    return {};
  }

  Result<void> measure_bandwidth(const ProbeLimits& limits, LinkMeasurement& found) {
    const Time end = clock_.now() + limits.bulk_time;
    for (const std::uint64_t bytes : kLarge) {
      if (found.bandwidth > 0.0) {
        const double takes = static_cast<double>(bytes) / found.bandwidth;
        if (seconds(end - clock_.now()) < takes) break;
      }
      const double took = seconds(TRY(echo(bytes)).took);
      // What is small is in the sockets' buffers before it is waited for, and a link that is new
      // starts slowly: the largest says most.
      found.bandwidth = static_cast<double>(bytes) / std::max(took, 1e-6);
    }
    return {};
  }

  int fd() const { return link_.fd(); }

 private:
  BulkLink link_;
  const Clock& clock_;
  std::uint64_t id_ = 0;
  std::vector<std::byte> room_;
};

}  // namespace

Card card_of(const std::filesystem::path& folder, const std::string& interface) {
  const auto number = [&](const char* name) -> std::uint32_t {
    std::ifstream file(folder / interface / name);
    std::int64_t value = 0;
    if (!(file >> value) || value < 0 || value > std::numeric_limits<std::uint32_t>::max()) {
      return 0;
    }
    return static_cast<std::uint32_t>(value);
  };
  std::error_code ignored;
  const auto has = [&](const char* name) {
    return std::filesystem::exists(folder / interface / name, ignored);
  };
  Card card;
  card.mtu = number("mtu");
  card.wireless = has("wireless") || has("phy80211");
  // Bridges and virtual cards say numbers too, which nothing keeps to.
  if (has("device")) card.mbit = number("speed");
  return card;
}

LinkMeasurement measure_link(const WeightHolder& peer, const transport::Identity& self,
                             const Clock& clock, const std::function<bool()>& stop,
                             const ProbeLimits& limits) {
  LinkMeasurement found;
  const BulkWaiting waiting{.clock = clock,
                            .stop = stop,
                            .on_bytes = [](std::uint64_t) {},
                            .dial_limit = limits.dial,
                            .reply_limit = limits.reply};
  const Time begin = clock.now();
  Result<transport::SecureStream> stream = dial_holder(peer, self, waiting);
  if (!stream) {
    found.error = stream.error().message;
    return found;
  }
  found.connect_seconds = seconds(clock.now() - begin);
  Probe probe(BulkLink(std::move(stream).value(), waiting), clock);
  describe_socket(probe.fd(), found);
  if (const Result<void> times = probe.measure_times(limits, found); !times) {
    found.error = times.error().message;
    return found;
  }
  if (const Result<void> bulk = probe.measure_bandwidth(limits, found); !bulk) {
    found.error = "large messages do not come through (" + bulk.error().message + ")";
  }
  describe_socket(probe.fd(), found);  // by now large packets may have taught it the path's MTU
  return found;
}

// --- the thread -------------------------------------------------------------------------------

struct LinkProber::State {
  State(const transport::Identity& the_self, const Clock& the_clock)
      : self(the_self), clock(the_clock), event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    CHECK(event.open());
    thread = std::thread([this] { work(); });
  }

  void work() {
    for (;;) {
      std::pair<std::uint64_t, WeightHolder> job;
      {
        std::unique_lock lock(mutex);
        more.wait(lock, [this] { return ending || !queue.empty(); });
        if (ending) return;
        job = std::move(queue.front());
        queue.pop_front();
      }
      report({job.first, measure_link(job.second, self, clock, [this] { return ending.load(); })});
    }
  }

  void report(Found result) {
    const std::lock_guard lock(mutex);
    found.push_back(std::move(result));
    eventfd_write(event.get(), 1);
  }

  const transport::Identity self;
  const Clock& clock;
  FileDescriptor event;
  std::mutex mutex;
  std::condition_variable more;
  std::atomic<bool> ending{false};
  std::deque<std::pair<std::uint64_t, WeightHolder>> queue;
  std::vector<Found> found;
  std::thread thread;
};

LinkProber::LinkProber(const transport::Identity& self, const Clock& clock)
    : state_(std::make_unique<State>(self, clock)) {}

LinkProber::~LinkProber() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->ending = true;
  }
  state_->more.notify_all();
  state_->thread.join();
}

void LinkProber::start(std::uint64_t id, WeightHolder peer) {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->queue.size() < kQueueMax) {
      state_->queue.emplace_back(id, std::move(peer));
      state_->more.notify_one();
      return;
    }
  }
  LinkMeasurement full;
  full.error = "too many measurements are wanted at once";
  state_->report({id, std::move(full)});
}

int LinkProber::fd() const { return state_->event.get(); }

std::vector<LinkProber::Found> LinkProber::take() {
  const std::lock_guard lock(state_->mutex);
  eventfd_t count = 0;
  eventfd_read(state_->event.get(), &count);
  return std::exchange(state_->found, {});
}

}  // namespace conclave::cluster
