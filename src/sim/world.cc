#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "sim/sim.h"

namespace conclave::sim {
namespace {

// Cancelled events stay in the heap until they are due or until they are this many and most of it.
constexpr std::size_t kCompactFrom = 1024;

}  // namespace

bool World::later(const Entry& a, const Entry& b) {
  return a.at != b.at ? a.at > b.at : a.sequence > b.sequence;
}

EventId World::schedule_at(Time at, Callback callback) {
  CHECK(at >= now_);
  CHECK(callback != nullptr);
  CHECK(queue_.size() < kEventsPendingMax);
  if (free_slots_.empty()) {
    free_slots_.push_back(slots_.size());
    slots_.emplace_back();
  }
  const std::size_t slot = free_slots_.back();
  free_slots_.pop_back();
  const std::uint64_t sequence = next_sequence_++;
  slots_[slot] = {sequence, std::move(callback)};
  queue_.push_back({at, sequence, slot});
  std::push_heap(queue_.begin(), queue_.end(), later);
  return {sequence, slot};
}

EventId World::schedule_after(Duration delay, Callback callback) {
  CHECK(delay >= Duration::zero());
  return schedule_at(now_ + delay, std::move(callback));
}

bool World::cancel(EventId id) {
  if (id.sequence == 0 || id.slot >= slots_.size()) return false;
  Slot& slot = slots_[id.slot];
  if (slot.sequence != id.sequence) return false;
  slot = {};
  free_slots_.push_back(id.slot);
  ++n_cancelled_;
  if (n_cancelled_ >= kCompactFrom && n_cancelled_ > queue_.size() / 2) compact();
  return true;
}

void World::compact() {
  std::erase_if(queue_, [this](const Entry& entry) { return cancelled(entry); });
  std::make_heap(queue_.begin(), queue_.end(), later);
  n_cancelled_ = 0;
}

void World::pop() {
  std::pop_heap(queue_.begin(), queue_.end(), later);
  queue_.pop_back();
}

const World::Entry* World::next() {
  while (!queue_.empty() && cancelled(queue_.front())) {
    pop();
    --n_cancelled_;
  }
  return queue_.empty() ? nullptr : &queue_.front();
}

bool World::run_one() {
  const Entry* found = next();
  if (found == nullptr) return false;
  const Entry entry = *found;
  pop();
  CHECK(entry.at >= now_);
  now_ = entry.at;
  // The slot is free before the callback runs, which may schedule and so move the slots.
  const Callback callback = std::exchange(slots_[entry.slot], {}).callback;
  free_slots_.push_back(entry.slot);
  ++n_run_;
  record(static_cast<std::uint64_t>(now_.time_since_epoch().count()));
  callback();
  return true;
}

Stop World::run_until(Time end, std::size_t events_max) {
  CHECK(end >= now_);
  for (std::size_t n = 0; const Entry* entry = next(); ++n) {
    if (entry->at > end) {
      now_ = end;
      return Stop::kTime;
    }
    if (n == events_max) return Stop::kEvents;
    run_one();
  }
  now_ = end;
  return Stop::kIdle;
}

Stop World::run_until_idle(std::size_t events_max) {
  for (std::size_t n = 0; next() != nullptr; ++n) {
    if (n == events_max) return Stop::kEvents;
    run_one();
  }
  return Stop::kIdle;
}

RandomStream World::stream(std::string_view purpose) const {
  std::uint64_t key = mix64(seed_);
  for (const char c : purpose) key = hash_combine(key, static_cast<unsigned char>(c));
  return RandomStream(key);
}

void World::record(std::uint64_t value) { trace_ = hash_combine(trace_, value); }

}  // namespace conclave::sim
