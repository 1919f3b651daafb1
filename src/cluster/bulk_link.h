// The asking end of a bulk connection: calls a machine, sends requests, waits for answers.
//
// Threads: one at a time. Every wait ends when `stop` says so, within a tenth of a second.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/result.h"
#include "cluster/bulk_messages.h"
#include "cluster/layout.h"
#include "transport/transport.h"

namespace conclave::cluster {

// A machine that has the model's files.
struct WeightHolder {
  NodeId node;
  transport::Endpoint endpoint;  // of its agent
};

struct BulkWaiting {
  const Clock& clock;
  std::function<bool()> stop;  // asked at least ten times a second while waiting
  // Bytes that have just come.
  std::function<void(std::uint64_t)> on_bytes;
  Duration dial_limit = std::chrono::seconds(5);
  // Without a byte where bytes are due. Long enough for a part that is packed from a slow disk.
  Duration reply_limit = std::chrono::seconds(30);
};

// A connection of purpose kBulk to this machine and no other, ready for requests. kUnavailable: not
// reached, not who it should be, or it refuses.
Result<transport::SecureStream> dial_holder(const WeightHolder& holder,
                                            const transport::Identity& self,
                                            const BulkWaiting& waiting);

class BulkLink {
 public:
  // `waiting` must outlive it.
  BulkLink(transport::SecureStream stream, const BulkWaiting& waiting)
      : stream_(std::move(stream)), waiting_(waiting) {}

  // kUnavailable: the connection is over, or too slow, or it was told to stop.
  Result<void> send(const BulkRequest& request);
  // The header of the next answer, then its bytes: `out` must have the size that it says. kCorrupt:
  // no header, or bytes that are not what was packed.
  Result<BulkAnswer> receive_header();
  Result<void> receive_bytes(const BulkAnswer& answer, std::span<std::byte> out);
  int fd() const { return stream_.fd(); }

 private:
  Result<void> receive(std::span<std::byte> out, Hasher* hasher);

  transport::SecureStream stream_;
  const BulkWaiting& waiting_;
};

}  // namespace conclave::cluster
