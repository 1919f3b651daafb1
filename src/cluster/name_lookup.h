// Looks up host names beside the caller's thread, because a name server may take many seconds.
//
// Each lookup has a thread of its own, which nobody waits for: the system's call cannot be
// interrupted. One thread calls a NameLookup.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "transport/transport.h"

namespace conclave::cluster {

// Whether resolve() of it does not block.
bool is_numeric_host(const std::string& host);

class NameLookup {
 public:
  static constexpr std::size_t kLookupsMax = 16;  // at once

  struct Found {
    std::uint64_t id = 0;  // as start() was given
    Result<std::vector<transport::Address>> addresses;
  };

  static Result<NameLookup> create();

  // kExhausted: kLookupsMax are under way.
  Result<void> start(std::uint64_t id, const std::string& host, std::uint16_t port);
  int fd() const;             // readable: take() has something
  std::vector<Found> take();  // never blocks

 private:
  struct Shared;
  // Shared with the threads, which may outlive the object.
  explicit NameLookup(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  std::shared_ptr<Shared> shared_;
};

}  // namespace conclave::cluster
