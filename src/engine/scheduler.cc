#include "engine/scheduler.h"

#include <algorithm>
#include <span>
#include <string>

#include "base/check.h"

namespace conclave::engine {

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits), pool_(limits.pages) {
  CHECK(limits.rows_max > 0);
  CHECK(limits.chunk_tokens > 0);
  limits_.chunk_tokens = std::min(limits_.chunk_tokens, limits_.rows_max);
}

Result<void> Scheduler::check(RequestId id, std::size_t positions_max) const {
  if (sequences_.contains(id)) {
    return invalid_input("request " + std::to_string(id.value) + " is already running");
  }
  if (sequences_.size() >= limits_.requests_max) {
    return exhausted("too many requests: the limit is " + std::to_string(limits_.requests_max));
  }
  if (pages_for(positions_max) > pool_.total()) {
    return exhausted("the request needs KV memory for " + std::to_string(positions_max) +
                     " tokens; there is room for " +
                     std::to_string(pool_.total() * backend::kPageTokens) + " in all");
  }
  return {};
}

Result<void> Scheduler::add(RequestId id, std::span<const TokenId> prompt,
                            std::span<const TokenId> answer, std::size_t positions_max) {
  CHECK(!prompt.empty());
  CHECK(positions_max >= prompt.size() + answer.size());
  TRY(check(id, positions_max));
  Sequence& sequence = sequences_[id];
  sequence.id = id;
  sequence.n_prompt = prompt.size();
  sequence.n_prefill = prompt.size() + answer.size();
  sequence.tokens.assign(prompt.begin(), prompt.end());
  sequence.tokens.insert(sequence.tokens.end(), answer.begin(), answer.end());
  sequence.positions_max = positions_max;
  waiting_.push_back(&sequence);
  return {};
}

void Scheduler::append(RequestId id, TokenId token) {
  const auto found = sequences_.find(id);
  CHECK(found != sequences_.end());
  Sequence& sequence = found->second;
  CHECK(sequence.n_written == sequence.tokens.size());
  CHECK(sequence.n_written < sequence.positions_max);
  sequence.tokens.push_back(token);
  decoding_.push_back(&sequence);
}

bool Scheduler::remove(RequestId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return false;
  Sequence* const sequence = &found->second;
  if (!prefilling_.empty() && prefilling_.front() == sequence) chunk_goes_first_ = false;
  std::erase(waiting_, sequence);
  std::erase(prefilling_, sequence);
  std::erase(decoding_, sequence);
  pool_.free(sequence->pages);
  sequences_.erase(found);
  return true;
}

const PlannedStep& Scheduler::plan() {
  start_waiting();
  planned_.tokens.clear();
  planned_.sequences.clear();
  planned_.head_rows.clear();
  planned_.head_requests.clear();
  planned_.prefill_rows = 0;

  if (chunk_goes_first_) {
    place_chunks();
    place_decode_rows();
  } else {
    place_decode_rows();
    place_chunks();
  }
  return planned_;
}

std::optional<std::pair<std::size_t, std::size_t>> Scheduler::prefill_progress(RequestId id) const {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return std::nullopt;
  const Sequence& sequence = found->second;
  return std::pair(std::min(sequence.n_written, sequence.n_prefill), sequence.n_prefill);
}

// Strictly in order: a small request that overtook a large one could keep it out for ever.
void Scheduler::start_waiting() {
  while (!waiting_.empty()) {
    Sequence& sequence = *waiting_.front();
    auto pages = pool_.allocate(pages_for(sequence.positions_max));
    if (!pages) return;
    sequence.pages = *std::move(pages);
    waiting_.pop_front();
    prefilling_.push_back(&sequence);
  }
}

void Scheduler::place_decode_rows() {
  const std::size_t n_rows = std::min(decoding_.size(), rows_left());
  for (std::size_t i = 0; i < n_rows; ++i) {
    Sequence& sequence = *decoding_.front();
    decoding_.pop_front();
    place(sequence, 1);
  }
}

void Scheduler::place_chunks() {
  const Sequence* const first = prefilling_.empty() ? nullptr : prefilling_.front();
  std::size_t room = std::min(limits_.chunk_tokens, rows_left());
  std::deque<Sequence*> skipped;
  std::deque<Sequence*> unfinished;
  for (Sequence* sequence : prefilling_) {
    const std::size_t n_rows = next_chunk(*sequence);
    if (n_rows > room) {
      skipped.push_back(sequence);
      continue;
    }
    place(*sequence, n_rows);
    planned_.prefill_rows += n_rows;
    room -= n_rows;
    if (sequence->n_written < sequence->n_prefill) unfinished.push_back(sequence);
  }
  chunk_goes_first_ = !skipped.empty() && skipped.front() == first;
  skipped.insert(skipped.end(), unfinished.begin(), unfinished.end());
  prefilling_ = std::move(skipped);
}

// A chunk ends at the prompt's end, also where an answer to be replayed follows.
std::size_t Scheduler::next_chunk(const Sequence& sequence) const {
  const bool in_prompt = sequence.n_written < sequence.n_prompt;
  const std::size_t end = in_prompt ? sequence.n_prompt : sequence.n_prefill;
  return std::min(limits_.chunk_tokens, end - sequence.n_written);
}

// Adds the sequence's next rows; a row that has no token after it gives logits.
void Scheduler::place(Sequence& sequence, std::size_t n_rows) {
  const std::size_t begin = sequence.n_written;
  const std::size_t end = begin + n_rows;
  CHECK(end <= sequence.tokens.size());
  const std::span<const backend::PageIndex> pages = sequence.pages;
  planned_.sequences.push_back({.first_row = planned_.tokens.size(),
                                .n_rows = n_rows,
                                .position = begin,
                                .pages = pages.first(pages_for(end)),
                                .decode = begin >= sequence.n_prompt});
  const std::span<const TokenId> tokens = sequence.tokens;
  for (const TokenId token : tokens.subspan(begin, n_rows)) planned_.tokens.push_back(token);
  sequence.n_written = end;
  if (end == sequence.tokens.size()) {
    planned_.head_rows.push_back(static_cast<std::uint32_t>(planned_.tokens.size() - 1));
    planned_.head_requests.push_back(sequence.id);
  }
}

}  // namespace conclave::engine
