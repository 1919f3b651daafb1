#include "cluster/discovery.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace conclave::cluster {
namespace {

constexpr const char* kServiceType = "_conclave._tcp";
constexpr std::uint32_t kFlagAdd = 0x2;     // kDNSServiceFlagsAdd
constexpr std::uint32_t kAnyInterface = 0;  // kDNSServiceInterfaceIndexAny
constexpr std::size_t kTxtPairMax = 255;
constexpr std::size_t kTxtMax = 1300;
// The machine has gone before it said where it is.
constexpr Duration kResolveTime = std::chrono::seconds(10);
constexpr std::size_t kNameSizeMax = 64;  // of a service
// Linux has Avahi's library or Apple's own; macOS has the functions in every program.
constexpr std::array<const char*, 3> kLibraries{"libdns_sd.so.1", "libdns_sd.so", ""};

template <class Function>
bool find_function(void* handle, const char* name, Function& out) {
  void* const symbol = dlsym(handle, name);
  out = reinterpret_cast<Function>(symbol);
  return symbol != nullptr;
}

Error no_daemon(const char* what, std::int32_t error) {
  return unavailable(std::string("cannot ") + what + ": the DNS-SD daemon says error " +
                     std::to_string(error) + "; use --peer HOST:PORT");
}

}  // namespace

std::optional<DnsSd> load_dns_sd(std::span<const char* const> libraries) {
  for (const char* const name : libraries) {
    // Never closed: its threads may live as long as the process.
    void* const handle = dlopen(*name == '\0' ? nullptr : name, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) continue;
    DnsSd found;
    if (find_function(handle, "DNSServiceRegister", found.register_service) &&
        find_function(handle, "DNSServiceBrowse", found.browse) &&
        find_function(handle, "DNSServiceResolve", found.resolve) &&
        find_function(handle, "DNSServiceRefSockFD", found.socket) &&
        find_function(handle, "DNSServiceProcessResult", found.process_result) &&
        find_function(handle, "DNSServiceRefDeallocate", found.deallocate)) {
      return found;
    }
  }
  return std::nullopt;
}

bool has_dns_sd() { return load_dns_sd(kLibraries).has_value(); }

std::unique_ptr<Discovery> make_discovery() {
  const std::optional<DnsSd> library = load_dns_sd(kLibraries);
  if (library) return std::make_unique<Discovery>(*library);
  spdlog::debug("no DNS-SD library: use --peer HOST:PORT");
  return nullptr;
}

// --- TXT records ------------------------------------------------------------------------------

Result<std::string> encode_txt(const TxtRecord& txt) {
  std::string out;
  for (const auto& [key, value] : txt) {
    std::string pair = key;
    pair += '=';
    pair += value;
    if (key.empty() || key.find('=') != std::string::npos || pair.size() > kTxtPairMax) {
      return invalid_input("\"" + key + "\" cannot stand in a TXT record");
    }
    out.push_back(static_cast<char>(pair.size()));
    out += pair;
  }
  if (out.size() > kTxtMax) {
    return invalid_input("a TXT record of " + std::to_string(out.size()) + " bytes; the limit is " +
                         std::to_string(kTxtMax));
  }
  return out;
}

TxtRecord decode_txt(std::string_view bytes) {
  TxtRecord txt;
  bytes = bytes.substr(0, kTxtMax);
  while (!bytes.empty()) {
    const std::size_t size = static_cast<unsigned char>(bytes.front());
    const std::string_view pair = bytes.substr(1, size);
    bytes.remove_prefix(std::min(bytes.size(), 1 + size));
    const std::size_t equals = pair.find('=');
    if (pair.size() < size || equals == 0 || equals == std::string_view::npos) continue;
    txt.emplace(pair.substr(0, equals), pair.substr(equals + 1));
  }
  return txt;
}

// --- queries ----------------------------------------------------------------------------------

struct Discovery::Query {
  Query(Discovery& owner, std::string service_name)
      : discovery(owner), name(std::move(service_name)) {}
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;
  ~Query() {
    if (ref != nullptr) discovery.library_.deallocate(ref);
  }

  Discovery& discovery;
  std::string name;
  DnsSd::Ref ref = nullptr;
  bool is_resolve = false;
  std::optional<Time> deadline;  // of a resolve, since the poll() after its start
  bool done = false;             // the library must not be told so while it calls us
};

Discovery::Discovery(DnsSd library) : library_(library), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  CHECK(epoll_.open());
}

Discovery::~Discovery() = default;

void Discovery::add_query(QueryPtr query) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = next_query_;
  CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, library_.socket(query->ref), &event) == 0);
  n_resolves_ += query->is_resolve ? 1 : 0;
  queries_.emplace(next_query_++, std::move(query));
}

Result<void> Discovery::publish(const std::string& name, std::uint16_t port, const TxtRecord& txt) {
  const std::string record = TRY(encode_txt(txt));
  queries_.erase(std::exchange(published_, 0));
  auto query = std::make_unique<Query>(*this, name);
  const std::int32_t error =
      library_.register_service(&query->ref, 0, kAnyInterface, name.c_str(), kServiceType, nullptr,
                                nullptr, htons(port), static_cast<std::uint16_t>(record.size()),
                                record.data(), &Discovery::on_registered, query.get());
  if (error != 0) {
    query->ref = nullptr;
    return no_daemon("announce this machine", error);
  }
  published_ = next_query_;
  add_query(std::move(query));
  return {};
}

Result<void> Discovery::browse(OnFound on_found) {
  CHECK(!on_found_);
  auto query = std::make_unique<Query>(*this, "");
  const std::int32_t error = library_.browse(&query->ref, 0, kAnyInterface, kServiceType, nullptr,
                                             &Discovery::on_browsed, query.get());
  if (error != 0) {
    query->ref = nullptr;
    return no_daemon("look for other machines", error);
  }
  on_found_ = std::move(on_found);
  add_query(std::move(query));
  return {};
}

void Discovery::start_resolve(std::uint32_t interface_index, const char* name, const char* domain) {
  if (n_resolves_ == kResolvesMax) return;
  auto query = std::make_unique<Query>(*this, name);
  query->is_resolve = true;
  const std::int32_t error = library_.resolve(&query->ref, 0, interface_index, name, kServiceType,
                                              domain, &Discovery::on_resolved, query.get());
  if (error == 0) return add_query(std::move(query));
  query->ref = nullptr;
}

bool Discovery::working() const {
  return std::ranges::any_of(
      queries_, [](const auto& item) { return !item.second->is_resolve && !item.second->done; });
}

void Discovery::poll(Time now) {
  std::array<epoll_event, 32> events{};
  const int n = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < n; ++i) {
    const std::uint64_t id = events[static_cast<std::size_t>(i)].data.u64;  // a copy: it is packed
    const auto found = queries_.find(id);
    if (found == queries_.end()) continue;
    Query& query = *found->second;
    // An error: the daemon has gone. Without this its socket would be readable for ever.
    if (library_.process_result(query.ref) == 0) continue;
    query.done = true;
    spdlog::warn("the DNS-SD daemon has gone: until it is back, use --peer HOST:PORT");
  }
  std::erase_if(queries_, [this, now](const auto& item) {
    Query& query = *item.second;
    if (!query.is_resolve) return query.done;
    if (!query.deadline) query.deadline = now + kResolveTime;
    const bool over = query.done || now >= *query.deadline;
    if (over) --n_resolves_;
    return over;
  });
}

// --- called by the library, inside process_result() -------------------------------------------

// Their parameters are the library's.
// NOLINTBEGIN(readability-function-size)
void Discovery::on_registered(DnsSd::Ref /*ref*/, std::uint32_t /*flags*/, std::int32_t error,
                              const char* name, const char* /*type*/, const char* /*domain*/,
                              void* /*context*/) {
  if (error == 0) {
    spdlog::info("announced name=\"{}\"", name);
  } else {
    spdlog::warn("not announced dns_sd_error={}", error);
  }
}

void Discovery::on_browsed(DnsSd::Ref /*ref*/, std::uint32_t flags, std::uint32_t interface_index,
                           std::int32_t error, const char* name, const char* /*type*/,
                           const char* domain, void* context) {
  Discovery& self = static_cast<Query*>(context)->discovery;
  if (error != 0 || std::string_view(name).size() > kNameSizeMax) return;
  if ((flags & kFlagAdd) != 0) return self.start_resolve(interface_index, name, domain);
  self.on_found_({.name = name, .gone = true});
}

void Discovery::on_resolved(DnsSd::Ref /*ref*/, std::uint32_t /*flags*/,
                            std::uint32_t /*interface_index*/, std::int32_t error,
                            const char* /*full_name*/, const char* host, std::uint16_t port,
                            std::uint16_t txt_size, const unsigned char* txt, void* context) {
  Query& query = *static_cast<Query*>(context);
  query.done = true;
  if (error != 0 || port == 0) return;
  std::string_view target(host);
  if (target.ends_with('.')) target.remove_suffix(1);
  // Read as people write it, so that nothing else than a host gets through.
  auto address = parse_host_port(target, ntohs(port));
  if (!address) return;
  query.discovery.on_found_({.name = query.name,
                             .address = std::move(address).value(),
                             .txt = decode_txt({reinterpret_cast<const char*>(txt), txt_size})});
}
// NOLINTEND(readability-function-size)

}  // namespace conclave::cluster
