#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "collective/exchange.h"

namespace conclave::collective {
namespace {

wire::DataHeader outside_layers(wire::DataKind kind, std::uint32_t step) {
  wire::DataHeader header;
  header.kind = kind;
  header.step = step;
  return header;
}

// Before the numbers and the description of a kStep message.
struct StepSizes {
  std::uint32_t description = 0;  // bytes
  std::uint32_t residual = 0;     // numbers
};

// Logits as messages hold them: how many each of the sender's virtual ranks has, u32, then all.
struct HeadMessage {
  std::vector<std::span<const float>> shares;
};

std::optional<HeadMessage> read_head(std::span<const std::byte> payload, std::size_t n_shares) {
  std::vector<std::uint32_t> counts(n_shares);
  if (payload.size() < n_shares * sizeof(std::uint32_t)) return std::nullopt;
  std::memcpy(counts.data(), payload.data(), n_shares * sizeof(std::uint32_t));
  const auto bytes = payload.subspan(n_shares * sizeof(std::uint32_t));
  if (bytes.size() % sizeof(float) != 0) return std::nullopt;
  std::span<const float> rest(reinterpret_cast<const float*>(bytes.data()),
                              bytes.size() / sizeof(float));
  HeadMessage message;
  for (const std::uint32_t count : counts) {
    if (count > rest.size()) return std::nullopt;
    message.shares.push_back(rest.first(count));
    rest = rest.subspan(count);
  }
  if (!rest.empty()) return std::nullopt;
  return message;
}

}  // namespace

Group::State::State(transport::Transport* the_transport, const Clock& the_clock,
                    std::vector<VirtualRank> virtual_ranks, const GroupOptions& the_options)
    : transport(the_transport),
      clock(the_clock),
      options(the_options),
      layout(std::move(virtual_ranks), n_ranks(), self()) {
  CHECK(options.hidden_size > 0);
  CHECK(n_ranks() > 0 && n_ranks() <= transport::kRanksMax);
  if (transport != nullptr) {
    mailbox.emplace(*transport, clock, options.wait_limit, options.waiting_for);
  }
  packed.resize(layout.own().size());
  sums.resize(layout.n_terms(self()));
}

Group::Group(transport::Transport* transport, const Clock& clock,
             std::vector<VirtualRank> virtual_ranks, const GroupOptions& options)
    : state_(std::make_unique<State>(transport, clock, std::move(virtual_ranks), options)) {}

Group::~Group() = default;

Rank Group::rank() const { return state_->self(); }

std::size_t Group::n_ranks() const { return state_->n_ranks(); }

std::span<const VirtualRank> Group::virtual_ranks() const { return state_->layout.virtual_ranks(); }

std::span<const std::size_t> Group::own() const { return state_->layout.own(); }

Result<void> Group::send_step(std::uint32_t step, std::span<const std::byte> description,
                              std::span<const float> residual) {
  State& s = *state_;
  CHECK(s.self() == 0);
  CHECK(residual.size() % s.options.hidden_size == 0);
  if (s.n_ranks() == 1) return {};
  TRY(s.mailbox->check());
  const StepSizes sizes{static_cast<std::uint32_t>(description.size()),
                        static_cast<std::uint32_t>(residual.size())};
  const std::array parts{std::as_bytes(std::span(&sizes, 1)), std::as_bytes(residual), description};
  for (Rank to = 1; to < s.n_ranks(); ++to) {
    s.transport->send(to, outside_layers(wire::DataKind::kStep, step), parts);
  }
  // The peers wait for it, and rank 0 will not come to receive() before it has computed.
  s.transport->flush(s.clock.now() + s.options.wait_limit);
  return {};
}

Result<Group::StepMessage> Group::receive_step() {
  State& s = *state_;
  CHECK(s.self() != 0);
  const Mailbox::Taken taken = TRY(s.mailbox->next(0, false));
  const wire::DataHeader expected = outside_layers(wire::DataKind::kStep, taken.header.step);
  if (taken.header.kind != expected.kind || taken.header.layer != expected.layer ||
      taken.header.phase != expected.phase) {
    return s.mailbox->protocol_error(0, "sent no step where one was due");
  }
  StepSizes sizes;
  if (taken.payload.size() < sizeof sizes) {
    return s.mailbox->protocol_error(0, "sent a step without its sizes");
  }
  std::memcpy(&sizes, taken.payload.data(), sizeof sizes);
  const auto rest = taken.payload.subspan(sizeof sizes);
  const std::size_t residual_bytes = std::size_t{sizes.residual} * sizeof(float);
  if (rest.size() != residual_bytes + sizes.description || sizes.residual == 0 ||
      sizes.residual % s.options.hidden_size != 0) {
    return s.mailbox->protocol_error(
        0, "sent a step of " + std::to_string(rest.size()) + " bytes with " +
               std::to_string(sizes.residual) + " numbers of embeddings and " +
               std::to_string(sizes.description) + " bytes of description");
  }
  StepMessage message;
  message.step = taken.header.step;
  message.residual.resize(sizes.residual);
  std::memcpy(message.residual.data(), rest.data(), residual_bytes);
  const auto description = rest.subspan(residual_bytes);
  message.description.assign(description.begin(), description.end());
  return message;
}

Result<void> Group::exchange(
    const Tag& tag, const std::function<std::span<const float>(std::size_t own_index)>& partial,
    std::span<float> hidden, const RoutingCheck* routing) {
  if (state_->mailbox) TRY(state_->mailbox->check());
  const auto done = Exchange(*state_, tag, partial, hidden, routing).run();
  if (state_->mailbox) state_->stats.waited = state_->mailbox->waited();
  return done;
}

Result<void> Group::gather_head(
    std::uint32_t step, const std::function<std::span<const float>(std::size_t own_index)>& logits,
    const std::function<Result<void>(std::size_t virtual_rank, std::span<const float> logits)>&
        take) {
  State& s = *state_;
  if (s.mailbox) TRY(s.mailbox->check());
  const wire::DataHeader header = outside_layers(wire::DataKind::kHead, step);
  const std::size_t n_own = s.layout.own().size();
  if (s.self() != 0) {
    if (n_own == 0) return {};
    std::vector<std::uint32_t> counts;
    std::vector<std::span<const std::byte>> parts{{}};
    for (std::size_t i = 0; i < n_own; ++i) {
      const std::span<const float> share = logits(i);
      counts.push_back(static_cast<std::uint32_t>(share.size()));
      parts.push_back(std::as_bytes(share));
    }
    parts[0] = std::as_bytes(std::span(counts));
    s.transport->send(0, header, parts);
    return {};
  }

  std::vector<std::span<const float>> shares(s.layout.virtual_ranks().size());
  for (std::size_t i = 0; i < n_own; ++i) shares[s.layout.own()[i]] = logits(i);
  for (Rank from = 1; from < s.n_ranks(); ++from) {
    const std::span<const std::size_t> theirs = s.layout.of(from);
    if (theirs.empty()) continue;
    const auto payload = TRY(s.mailbox->take(from, header, std::nullopt));
    const auto message = read_head(payload, theirs.size());
    if (!message) return s.mailbox->protocol_error(from, "sent logits of another size than stated");
    for (std::size_t i = 0; i < theirs.size(); ++i) shares[theirs[i]] = message->shares[i];
  }
  if (s.mailbox) s.stats.waited = s.mailbox->waited();
  for (std::size_t v = 0; v < shares.size(); ++v) {
    const auto taken = take(v, shares[v]);
    if (taken) continue;
    const Rank from = s.layout.virtual_ranks()[v].rank;
    CHECK(from != 0);
    return s.mailbox->protocol_error(from, "sent logits that do not fit: " + taken.error().message);
  }
  return {};
}

Result<void> Group::hand_over(const Tag& tag, Rank from, Rank to, std::span<float> hidden) {
  State& s = *state_;
  CHECK(from != to && from < n_ranks() && to < n_ranks());
  CHECK(hidden.size() % s.options.hidden_size == 0);
  wire::DataHeader header;
  header.kind = wire::DataKind::kHidden;
  header.phase = tag.phase;
  header.layer = tag.layer;
  header.step = tag.step;
  if (s.self() == from) {
    TRY(s.mailbox->check());
    const std::array parts{std::as_bytes(std::span<const float>(hidden))};
    s.transport->send(to, header, parts);
    s.transport->flush(s.clock.now() + s.options.wait_limit);
    ++s.stats.rounds;
  } else if (s.self() == to) {
    const auto bytes = TRY(s.mailbox->take(from, header, hidden.size_bytes()));
    std::memcpy(hidden.data(), bytes.data(), bytes.size());
    s.stats.waited = s.mailbox->waited();
  }
  return {};
}

const GroupStats& Group::stats() const { return state_->stats; }

const std::optional<Broken>& Group::broken() const {
  static const std::optional<Broken> kWhole;
  return state_->mailbox ? state_->mailbox->broken() : kWhole;
}

std::optional<Rank> Group::waiting_for() const {
  if (!state_->mailbox) return std::nullopt;
  return state_->mailbox->waiting_for();
}

}  // namespace conclave::collective
