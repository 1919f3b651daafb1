// What has been sent of every open request. Pure state: no sockets, clocks or threads.
//
// Invariant: a log only grows, by one token at a time, each taken from the current attempt at the
// index that is the log's length. Whatever workers send, late, twice or never, the client sees
// each index once.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "engine/engine.h"
#include "wire/wire.h"

namespace conclave::cluster {

class TokenLog {
 public:
  // CHECKs that nothing was generated yet.
  explicit TokenLog(engine::Request request);

  enum class Verdict : std::uint8_t {
    kTaken,
    kStale,  // of an earlier attempt, or an index the log has: ignored
    kGap,    // of the current attempt, beyond the log's length: the worker is wrong
  };
  // Takes `token` only at the log's length; an end without a token must name that index too.
  Verdict take(std::uint32_t attempt, std::uint64_t index, std::optional<TokenId> token);

  // Starts the next attempt: what a worker has to be told. `suspect`: the last one may have died of
  // this very request.
  wire::pb::Admit admit(bool suspect);

  std::uint32_t attempt() const { return attempt_; }  // 0: no worker was told yet
  const std::vector<TokenId>& tokens() const { return request_.generated; }
  // Attempts, since the last token was taken, that followed the death of a worker.
  int barren_attempts() const { return barren_attempts_; }

 private:
  engine::Request request_;  // `generated` is the log
  std::uint32_t attempt_ = 0;
  int barren_attempts_ = 0;
};

// The open requests, oldest first: they are admitted again in the order in which they came.
class TokenLogs {
 public:
  // CHECKs that the id is not open.
  TokenLog& open(engine::Request request);
  TokenLog* find(RequestId id);  // nullptr: not open
  bool close(RequestId id);      // false: was not open
  std::vector<RequestId> ids() const;
  std::size_t size() const { return logs_.size(); }

 private:
  std::map<RequestId, TokenLog> logs_;
};

}  // namespace conclave::cluster
