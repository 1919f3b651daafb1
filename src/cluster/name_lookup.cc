#include "cluster/name_lookup.h"

#include <arpa/inet.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <mutex>
#include <thread>
#include <utility>

namespace conclave::cluster {

struct NameLookup::Shared {
  FileDescriptor event;
  std::mutex mutex;
  std::vector<Found> found;     // guarded by `mutex`
  std::size_t n_under_way = 0;  // guarded by `mutex`
};

bool is_numeric_host(const std::string& host) {
  std::array<char, sizeof(in6_addr)> ip{};
  return inet_pton(AF_INET, host.c_str(), ip.data()) == 1 ||
         inet_pton(AF_INET6, host.c_str(), ip.data()) == 1;
}

Result<NameLookup> NameLookup::create() {
  auto shared = std::make_shared<Shared>();
  shared->event = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!shared->event.open()) {
    return unavailable("cannot look up names: " + transport::error_text(errno));
  }
  return NameLookup(std::move(shared));
}

int NameLookup::fd() const { return shared_->event.get(); }

Result<void> NameLookup::start(std::uint64_t id, const std::string& host, std::uint16_t port) {
  {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->n_under_way == kLookupsMax) {
      return exhausted("cannot look up '" + host + "': " + std::to_string(kLookupsMax) +
                       " other names are being looked up");
    }
    ++shared_->n_under_way;
  }
  std::thread([shared = shared_, id, host, port] {
    auto addresses = transport::resolve(host, port);
    const std::lock_guard lock(shared->mutex);
    --shared->n_under_way;
    shared->found.push_back({.id = id, .addresses = std::move(addresses)});
    eventfd_write(shared->event.get(), 1);
  }).detach();
  return {};
}

std::vector<NameLookup::Found> NameLookup::take() {
  const std::lock_guard lock(shared_->mutex);
  eventfd_t count = 0;
  eventfd_read(shared_->event.get(), &count);
  return std::exchange(shared_->found, {});
}

}  // namespace conclave::cluster
