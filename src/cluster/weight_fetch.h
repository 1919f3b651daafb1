// Weights from the machines that have a model's files, for one that has not.
//
//   WeightFetch fetch(options);
//   dir = TRY(fetch_skeleton(fetch, state / "weights"));      // opens like the checkpoint
//   backend::load_slice(source, slice, cpu, fetch, arena, progress);
//
// It is connected to one holder at a time and asks for some parts ahead. When a connection breaks
// it goes on with the part that is missing, at whoever answers first, machines other than the head
// before the head, which has more to do than the others.
//
// Threads: one, which blocks. Every wait ends soon after options.stop() has become true.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cluster/bulk_link.h"

namespace conclave::cluster {

struct FetchOptions {
  std::uint64_t model = 0;  // ModelSource::fingerprint
  BulkWaiting waiting;
  // Who has the files now; asked whenever a connection is needed. Their order decides between
  // equals.
  std::function<std::vector<WeightHolder>()> holders;
  // How one is reached: dial_holder, but for tests.
  std::function<Result<transport::SecureStream>(const WeightHolder&)> dial;
  std::size_t window_bytes = std::size_t{64} << 20;  // asked for and not received
  std::size_t window_parts = 256;
  Duration patience = std::chrono::seconds(60);  // without anything from any holder: an error
  Duration retry = std::chrono::seconds(1);      // before a holder that failed is tried again
  int mismatches_max = 3;                        // of one part, whoever sent it
};

class WeightFetch final : public backend::PackedSource {
 public:
  explicit WeightFetch(FetchOptions options);

  void announce(std::span<const backend::PackedPart> parts) override;
  // Errors name the holder. kUnavailable: nobody gives anything, or stop(); kCorrupt: what comes is
  // not what was sent, again and again; else what all holders say.
  Result<void> read(const backend::PackedPart& part, std::span<std::byte> out) override;

  // Asks for these, one after the other; next() gets them in that order. Drops what was planned
  // before.
  void plan(std::vector<BulkRequest> requests);
  // `room` gives the place for an answer of so many bytes.
  using Room = std::function<Result<std::span<std::byte>>(std::uint64_t bytes)>;
  Result<void> next(const Room& room);

  std::uint64_t model() const { return options_.model; }

 private:
  struct HolderState {
    Time retry_at{};
    std::string last_error;          // of its connections
    std::optional<Error> refusal{};  // of the request that is next
  };

  Result<void> connect();
  Result<void> open_link(const WeightHolder& holder);
  Result<void> ask_ahead();
  Result<void> receive_next(const Room& room);
  bool is_named(NodeId holder) const;
  std::vector<WeightHolder> preferred() const;
  Error nobody() const;
  Error about(const WeightHolder& holder, const Error& error) const;
  void drop_link();

  FetchOptions options_;
  BulkWaiting link_waiting_;  // ends too when the head no longer names the holder
  std::optional<BulkLink> link_;
  WeightHolder at_;  // the holder at its other end
  std::map<NodeId, HolderState> holders_;
  std::vector<BulkRequest> requests_;
  std::size_t next_ = 0;         // the answer that is due
  std::size_t asked_ = 0;        // the requests before this one are sent
  std::size_t asked_bytes_ = 0;  // of what is asked for and not received
  std::uint64_t next_id_ = 1;
  int mismatches_ = 0;  // of the part that is due
  int breaks_ = 0;      // of connections, since something came
  Time received_at_;    // or, before anything was received, the begin
};

// A folder in `weights_dir` (`<fingerprint>/skeleton`) in which the model opens without its
// matrices; fetched unless it is there. Sparse files of the sizes of the real ones.
Result<std::filesystem::path> fetch_skeleton(WeightFetch& fetch,
                                             const std::filesystem::path& weights_dir);

}  // namespace conclave::cluster
