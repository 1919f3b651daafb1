// Decides which rows run in the next step. Pure bookkeeping: no clock, thread or I/O.
//
//   scheduler.add(id, prompt, answer_so_far, positions_max);
//   const PlannedStep& planned = scheduler.plan();       // run it, sample its head rows, then
//   scheduler.append(id, token) or scheduler.remove(id)  // for each of planned.head_requests
//
// Admission: requests wait in one FIFO queue and start when all pages that they can ever need are
// free. A request that has started therefore never waits for memory, so no two can block each
// other, and none has to be thrown out and prefilled again.
//
// Rows: every request with a new token gets its decode row first. Then come prefill chunks, at
// most `chunk_tokens` rows of them in a step, in turn among the prompts that are being read. A
// chunk is never cut to fill a gap: chunks lie at fixed multiples from the prompt's start, because
// the form of attention, and so the low bits of the result, depend on the chunk (docs/design.md 4).
// A chunk that finds no room beside the decode rows goes first in the next step. An answer that a
// dead worker had begun is replayed after its prompt, many rows at a time but each in the form that
// decode gives it, so that a restart changes no bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/ids.h"
#include "base/result.h"
#include "engine/kv_pages.h"

namespace conclave::engine {

struct SchedulerLimits {
  std::size_t rows_max = 512;      // rows in one step
  std::size_t chunk_tokens = 512;  // lowered to rows_max if larger
  std::size_t pages = 0;           // KV pages in all
  std::size_t requests_max = 256;  // waiting and running; more is kExhausted
};

// The rows of one step. `sequences` is valid until `plan` or `remove` is called, the rest until
// `plan` is.
struct PlannedStep {
  std::vector<TokenId> tokens;
  std::vector<backend::SequenceRows> sequences;
  std::vector<std::uint32_t> head_rows;
  std::vector<RequestId> head_requests;  // whose rows the head rows are
  std::size_t prefill_rows = 0;

  bool empty() const { return tokens.empty(); }
  backend::Step step() const { return {tokens, sequences, head_rows}; }
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  // Whether add() would take the request. `positions_max`: positions whose KV it may come to
  // write. kExhausted: too many requests, or more positions than the pool has. kInvalidInput: the
  // id is in use.
  Result<void> check(RequestId id, std::size_t positions_max) const;
  // `prompt`: at least one token. `answer`: what was generated before a restart. Errors: check()'s.
  Result<void> add(RequestId id, std::span<const TokenId> prompt, std::span<const TokenId> answer,
                   std::size_t positions_max);
  // The request's next token, sampled from its head row.
  void append(RequestId id, TokenId token);
  // Ends a request and frees its pages at once. False when the id is unknown.
  bool remove(RequestId id);

  // Starts waiting requests, then plans a step; empty when nothing can run. The rows count as
  // written from here on: the caller runs the step before it plans the next.
  const PlannedStep& plan();

  // {prefilled, to prefill in all}, nullopt when the id is unknown.
  std::optional<std::pair<std::size_t, std::size_t>> prefill_progress(RequestId id) const;
  std::size_t running() const { return sequences_.size() - waiting_.size(); }
  std::size_t waiting() const { return waiting_.size(); }
  const PagePool& pages() const { return pool_; }

 private:
  struct Sequence {
    RequestId id;
    std::vector<TokenId> tokens;  // prompt and answer
    std::size_t n_prompt = 0;     // of them, the prompt
    std::size_t n_prefill = 0;    // of them, known from the start
    std::size_t n_written = 0;    // of them, whose KV is written
    std::size_t positions_max = 0;
    std::vector<backend::PageIndex> pages;
  };

  void start_waiting();
  void place_chunks();
  void place_decode_rows();
  std::size_t next_chunk(const Sequence& sequence) const;
  void place(Sequence& sequence, std::size_t n_rows);
  std::size_t rows_left() const { return limits_.rows_max - planned_.tokens.size(); }

  SchedulerLimits limits_;
  PagePool pool_;
  std::unordered_map<RequestId, Sequence> sequences_;
  // Each sequence is in one of these, or in none while its head row is being sampled.
  std::deque<Sequence*> waiting_;     // first come, first served
  std::deque<Sequence*> prefilling_;  // in turn: a chunk placed sends its sequence to the back
  std::deque<Sequence*> decoding_;    // with a token to feed; `append` puts it at the back
  bool chunk_goes_first_ = false;     // the last step had no room for the first of prefilling_
  PlannedStep planned_;
};

}  // namespace conclave::engine
