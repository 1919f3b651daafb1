#include "collective/exchange.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace conclave::collective {

using wire::DataKind;

static_assert(sizeof(ExpertId) == 2, "experts travel as u16");

Exchange::Exchange(Group::State& group, const Tag& tag, const Partial& partial,
                   std::span<float> hidden, const RoutingCheck* routing)
    : group_(group),
      tag_(tag),
      partial_(partial),
      hidden_(hidden),
      routing_(routing),
      self_(group.self()),
      width_(group.options.hidden_size),
      n_rows_(hidden.size() / group.options.hidden_size),
      large_(group.n_ranks() > 1 && hidden.size_bytes() > group.options.direct_bytes_max),
      received_(group.n_ranks()) {
  CHECK(n_rows_ > 0 && n_rows_ * width_ == hidden.size());
  if (routing == nullptr) return;
  CHECK(routing->experts.size() == routing->weights.size());
  CHECK(!routing->experts.empty() && routing->experts.size() % n_rows_ == 0);
}

// Every rank sends its terms to every peer, or to each peer those of the rows that it sums. When
// all are there, all know who routed differently. A rank then adds the terms of its rows; in a
// large exchange it sends the sums round. A rank without terms sends its empty message too: rank 0
// must not be done with a step before all have written their KV.
Result<void> Exchange::run() {
  const std::size_t n_ranks = group_.n_ranks();
  const DataKind kind = large_ ? DataKind::kScatter : DataKind::kPartial;
  ++group_.stats.exchanges;
  if (n_ranks > 1) group_.stats.rounds += large_ ? 2 : 1;

  prepare_own();
  send(kind, routing_ != nullptr);
  for (Rank from = 0; from < n_ranks; ++from) {
    if (from != self_) TRY(receive(from, kind, routing_ != nullptr));
  }
  if (routing_ != nullptr && n_ranks > 1) TRY(repair());

  const Rows mine = rows_of(self_);
  sum(hidden_.subspan(mine.begin * width_, mine.size() * width_));
  if (large_) TRY(gather());
  // Each peer has sent what this exchange asks of it, so it is reading: this does not take long.
  if (n_ranks > 1) group_.transport->flush(group_.clock.now() + group_.options.wait_limit);
  return {};
}

Exchange::Rows Exchange::rows_of(Rank rank) const {
  if (!large_) return {0, n_rows_};
  const std::size_t n_ranks = group_.n_ranks();
  return {n_rows_ * rank / n_ranks, n_rows_ * (rank + 1u) / n_ranks};
}

Wire Exchange::wire_of(const Term& term) const {
  return term.residual ? Wire::kF32 : group_.options.wire;
}

wire::DataHeader Exchange::header(DataKind kind) const {
  wire::DataHeader header;
  header.kind = kind;
  header.phase = tag_.phase;
  header.layer = tag_.layer;
  header.step = tag_.step;
  return header;
}

// ---- This rank's terms --------------------------------------------------------------------------

void Exchange::prepare_own() {
  own_.clear();
  for (const Term& term : group_.layout.terms()) {
    if (term.rank == self_) own_.push_back(prepare(term));
  }
}

Values Exchange::prepare(const Term& term) {
  const auto partial = [this](std::size_t virtual_rank) {
    const std::span<const float> rows = partial_(group_.layout.own_index(virtual_rank));
    CHECK(rows.size() == hidden_.size());
    return rows;
  };
  std::vector<std::byte>& storage = group_.sums[term.slot];
  std::vector<float>& sum = group_.group_sum;
  if (term.residual) {
    sum.assign(hidden_.begin(), hidden_.end());
    for (std::size_t v = term.begin; v < term.end; ++v) add_values(values_of(partial(v)), sum);
    return pack(sum, Wire::kF32, storage);
  }
  std::vector<Values> partials;
  for (std::size_t v = term.begin; v < term.end; ++v) {
    const std::span<const float> rows = partial(v);
    const bool rounds = group_.options.wire == Wire::kBF16;
    std::vector<std::byte>& packed = group_.packed[group_.layout.own_index(v)];
    partials.push_back(rounds ? pack(rows, Wire::kBF16, packed) : values_of(rows));
  }
  if (partials.size() == 1) return partials[0];
  sum.resize(hidden_.size());
  add_group(partials, sum);
  return pack(sum, group_.options.wire, storage);
}

// sum = terms[0] + terms[1] + ..., rounded as the wire rounds it.
void Exchange::add_group(std::span<const Values> terms, std::span<float> sum) const {
  copy_values(terms[0], sum);
  for (const Values& term : terms.subspan(1)) add_values(term, sum);
  if (group_.options.wire == Wire::kBF16) round_to_bf16(sum);
}

// ---- Messages -----------------------------------------------------------------------------------

// Payload: the sender's terms, each of the rows that the receiver sums; then the experts of all
// rows [R, K] u16, on rank 0 after their weights [R, K] f32.
void Exchange::send(DataKind kind, bool with_routing) {
  std::vector<std::span<const std::byte>> parts;
  for (Rank to = 0; to < group_.n_ranks(); ++to) {
    if (to == self_) continue;
    const Rows rows = rows_of(to);
    parts.clear();
    for (const Values& term : own_) {
      parts.push_back(term.part(rows.begin * width_, rows.size() * width_).bytes);
    }
    if (with_routing) {
      if (self_ == 0) parts.push_back(std::as_bytes(routing_->weights));
      parts.push_back(std::as_bytes(routing_->experts));
    }
    group_.transport->send(to, header(kind), parts);
  }
}

std::size_t Exchange::routing_bytes(Rank from) const {
  const std::size_t n = routing_->experts.size();
  return n * sizeof(ExpertId) + (from == 0 ? n * sizeof(float) : 0);
}

Result<void> Exchange::receive(Rank from, DataKind kind, bool with_routing) {
  std::size_t size = 0;
  for (const Term& term : group_.layout.terms()) {
    if (term.rank == from) size += rows_of(self_).size() * width_ * size_of(wire_of(term));
  }
  if (with_routing) size += routing_bytes(from);
  received_[from] = TRY(group_.mailbox->take(from, header(kind), size));
  return {};
}

// ---- Routing ------------------------------------------------------------------------------------

std::span<const std::byte> Exchange::experts_of(Rank rank) const {
  if (rank == self_) return std::as_bytes(routing_->experts);
  return received_[rank].last(routing_->experts.size_bytes());
}

// Ranks that chose other experts than rank 0 compute their terms again with rank 0's and send them
// in the form of the first ones. Everybody knows whose are to come.
Result<void> Exchange::repair() {
  const std::span<const std::byte> leading = experts_of(0);
  std::vector<Rank> differing;
  for (Rank rank = 1; rank < group_.n_ranks(); ++rank) {
    if (!std::ranges::equal(experts_of(rank), leading)) differing.push_back(rank);
  }
  if (differing.empty()) return {};
  ++group_.stats.repairs;
  group_.stats.mismatches += differing.size();

  if (std::ranges::count(differing, self_) != 0) {
    TRY(recompute());
    send(DataKind::kRepair, false);
  }
  for (const Rank from : differing) {
    if (from != self_) TRY(receive(from, DataKind::kRepair, false));
  }
  return {};
}

Result<void> Exchange::recompute() {
  const std::size_t n = routing_->experts.size();
  const auto tail = received_[0].last(routing_bytes(0));
  std::vector<float> weights(n);
  std::vector<ExpertId> experts(n);
  std::memcpy(weights.data(), tail.data(), n * sizeof(float));
  std::memcpy(experts.data(), tail.data() + n * sizeof(float), n * sizeof(ExpertId));
  if (const auto done = routing_->recompute(experts, weights); !done) {
    return group_.mailbox->protocol_error(0,
                                          "sent a routing that cannot be: " + done.error().message);
  }
  prepare_own();
  return {};
}

// ---- Sums ---------------------------------------------------------------------------------------

// A term's rows of those that this rank sums.
Values Exchange::values(const Term& term) const {
  const Rows rows = rows_of(self_);
  const std::size_t n = rows.size() * width_;
  if (term.rank == self_) return own_[term.slot].part(rows.begin * width_, n);
  // Of a message only rank 0's first term has another size than the rest.
  const bool after_residual = term.rank == 0 && term.slot > 0;
  const std::size_t before = after_residual ? n * size_of(Wire::kF32) : 0;
  const std::size_t slot = after_residual ? term.slot - 1 : term.slot;
  const Wire wire = wire_of(term);
  const std::size_t offset = before + slot * n * size_of(wire);
  return {received_[term.rank].subspan(offset, n * size_of(wire)), wire};
}

void Exchange::sum(std::span<float> out) {
  std::vector<Values> group;
  for (const Term& term : group_.layout.terms()) {
    if (term.residual) {
      copy_values(values(term), out);
      continue;
    }
    group.push_back(values(term));
    if (!term.last_of_group) continue;
    if (group.size() == 1) {
      add_values(group[0], out);
    } else {
      group_.group_sum.resize(out.size());
      add_group(group, group_.group_sum);
      add_values(values_of(group_.group_sum), out);
    }
    group.clear();
  }
}

Result<void> Exchange::gather() {
  const auto rows_of_hidden = [this](Rank rank) {
    const Rows rows = rows_of(rank);
    return hidden_.subspan(rows.begin * width_, rows.size() * width_);
  };
  const auto part = std::as_bytes(rows_of_hidden(self_));
  for (Rank to = 0; to < group_.n_ranks() && !part.empty(); ++to) {
    if (to != self_) group_.transport->send(to, header(DataKind::kGather), {&part, 1});
  }
  for (Rank from = 0; from < group_.n_ranks(); ++from) {
    const std::span<float> rows = rows_of_hidden(from);
    if (from == self_ || rows.empty()) continue;
    const auto bytes =
        TRY(group_.mailbox->take(from, header(DataKind::kGather), rows.size_bytes()));
    copy_values({bytes, Wire::kF32}, rows);
  }
  return {};
}

}  // namespace conclave::collective
