// Finds other agents of the local network by DNS-SD (Bonjour, Avahi), where the system has it. The
// library is loaded at run time: without it, people name a peer with --peer HOST:PORT.
//
// What is found is a hint from anybody on the network; keys decide who a machine is.
//
// Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/result.h"
#include "cluster/membership.h"

namespace conclave::cluster {

// After which whoever could not announce or browse tries again: the daemon may start later.
inline constexpr Duration kDiscoveryAgain = std::chrono::minutes(1);

// The functions that we use of <dns_sd.h>, whose interface is fixed since 2003. Ports are in
// network byte order.
struct DnsSd {
  using Ref = struct DnsSdRef*;
  using RegisterReply = void (*)(Ref, std::uint32_t flags, std::int32_t error, const char* name,
                                 const char* type, const char* domain, void* context);
  using BrowseReply = void (*)(Ref, std::uint32_t flags, std::uint32_t interface_index,
                               std::int32_t error, const char* name, const char* type,
                               const char* domain, void* context);
  using ResolveReply = void (*)(Ref, std::uint32_t flags, std::uint32_t interface_index,
                                std::int32_t error, const char* full_name, const char* host,
                                std::uint16_t port, std::uint16_t txt_size,
                                const unsigned char* txt, void* context);

  std::int32_t (*register_service)(Ref*, std::uint32_t flags, std::uint32_t interface_index,
                                   const char* name, const char* type, const char* domain,
                                   const char* host, std::uint16_t port, std::uint16_t txt_size,
                                   const void* txt, RegisterReply, void* context) = nullptr;
  std::int32_t (*browse)(Ref*, std::uint32_t flags, std::uint32_t interface_index, const char* type,
                         const char* domain, BrowseReply, void* context) = nullptr;
  std::int32_t (*resolve)(Ref*, std::uint32_t flags, std::uint32_t interface_index,
                          const char* name, const char* type, const char* domain, ResolveReply,
                          void* context) = nullptr;
  int (*socket)(Ref) = nullptr;
  std::int32_t (*process_result)(Ref) = nullptr;
  void (*deallocate)(Ref) = nullptr;
};

// The first of the libraries that is there and has all functions; an empty name is the program
// itself. nullopt: none.
std::optional<DnsSd> load_dns_sd(std::span<const char* const> libraries);

// Keys and values, each pair at most 255 bytes together with its '='.
using TxtRecord = std::map<std::string, std::string>;
// kInvalidInput: a pair that is too long, a key that is empty or has a '=', more than 1,300 bytes.
Result<std::string> encode_txt(const TxtRecord& txt);
// Never fails: what makes no sense is left out, and of a key that comes twice the first counts.
TxtRecord decode_txt(std::string_view bytes);

struct FoundService {
  std::string name;  // as published; made unique by the network
  bool gone = false;
  HostPort address{};  // unless gone
  TxtRecord txt{};     // unless gone
};

class Discovery {
 public:
  using OnFound = std::function<void(const FoundService&)>;
  static constexpr std::size_t kResolvesMax = 64;  // at once; more are left out

  explicit Discovery(DnsSd library);
  Discovery(const Discovery&) = delete;
  Discovery& operator=(const Discovery&) = delete;
  ~Discovery();  // the service is gone

  // Replaces what was published before. kUnavailable: no daemon runs.
  Result<void> publish(const std::string& name, std::uint16_t port, const TxtRecord& txt);
  // `on_found` is called in poll(): for each service of the network, and again when it changes.
  // Our own is among them. kUnavailable: no daemon runs.
  Result<void> browse(OnFound on_found);

  // Whether what was published or browsed still is: not, once the daemon has gone.
  bool working() const;

  // Becomes readable when poll() has something to do. Owned by the object.
  int fd() const { return epoll_.get(); }
  // Never blocks. Call when fd() is readable and at least every second.
  void poll(Time now);

 private:
  struct Query;
  using QueryPtr = std::unique_ptr<Query>;
  static void on_registered(DnsSd::Ref, std::uint32_t flags, std::int32_t error, const char* name,
                            const char* type, const char* domain, void* context);
  static void on_browsed(DnsSd::Ref, std::uint32_t flags, std::uint32_t interface_index,
                         std::int32_t error, const char* name, const char* type, const char* domain,
                         void* context);
  static void on_resolved(DnsSd::Ref, std::uint32_t flags, std::uint32_t interface_index,
                          std::int32_t error, const char* full_name, const char* host,
                          std::uint16_t port, std::uint16_t txt_size, const unsigned char* txt,
                          void* context);

  void start_resolve(std::uint32_t interface_index, const char* name, const char* domain);
  void add_query(QueryPtr query);

  DnsSd library_;
  FileDescriptor epoll_;
  OnFound on_found_;
  std::map<std::uint64_t, QueryPtr> queries_;  // by a number that is never used twice
  std::uint64_t next_query_ = 1;
  std::uint64_t published_ = 0;  // query; 0: none
  std::size_t n_resolves_ = 0;
};

// Whether the system has the library.
bool has_dns_sd();
// With the system's library. nullptr, and one line in the log: there is none.
std::unique_ptr<Discovery> make_discovery();

}  // namespace conclave::cluster
