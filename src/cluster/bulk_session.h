// One client of a WeightServer: its requests, and the answers on their way to it.
//
// Threads: the serving thread's, except what the server's mutex guards.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "cluster/bulk_messages.h"
#include "cluster/served_model.h"
#include "transport/transport.h"

namespace conclave::cluster {

struct BulkSlot {
  enum class State : std::uint8_t { kWaiting, kPacking, kReady };

  explicit BulkSlot(BulkRequest the_request);
  // Its answer is there: these bytes, or why not.
  void fill(Result<std::vector<std::byte>> answer);
  // Of a kEcho.
  void fill_echo();

  BulkRequest request;
  std::size_t bytes_needed = 0;  // of memory, for the answer
  std::size_t reserved = 0;      // counted as bytes_needed while it takes memory
  State state = State::kWaiting;
  std::array<std::byte, kBulkAnswerSize> header{};
  std::vector<std::byte> bytes;
};

class BulkSession {
 public:
  BulkSession(transport::SecureStream stream, std::string name, Time now)
      : stream_(std::move(stream)), name_(std::move(name)), moved_at_(now) {}
  BulkSession(const BulkSession&) = delete;
  BulkSession& operator=(const BulkSession&) = delete;

  int fd() const { return stream_.fd(); }
  const std::string& name() const { return name_; }

  // What has arrived, at most `count_max` requests; fewer mean that no more is there now. Errors:
  // the connection is over, or what came is no request.
  Result<std::vector<BulkRequest>> read(std::size_t count_max, Time now);
  // Sends of this answer, the oldest, what the peer takes. True: it is sent whole. False: again
  // when the socket can be written.
  Result<bool> write(const BulkSlot& slot, Time now);
  Time moved_at() const { return moved_at_; }  // bytes last went either way
  std::uint64_t sent_bytes() const { return sent_bytes_; }

  bool reading = true;               // false: it ends when what is owed has been sent
  bool blocked = false;              // the socket takes no more now
  std::optional<std::string> ended;  // why it has to end now

  // Guarded by the server's mutex. Shared: one may be being packed when its session ends.
  std::deque<std::shared_ptr<BulkSlot>> slots;
  std::size_t ahead_bytes = 0;   // of slots that are packed or being packed
  ServedModel* model = nullptr;  // once the peer has said which

 private:
  transport::SecureStream stream_;
  std::string name_;
  std::array<std::byte, kBulkRequestSize> in_{};
  std::size_t in_size_ = 0;
  std::size_t out_done_ = 0;  // bytes of the oldest answer that are sent
  Time moved_at_;
  std::uint64_t sent_bytes_ = 0;
};

}  // namespace conclave::cluster
