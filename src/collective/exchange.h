// One exchange of partial sums, from this rank's partials to the sum on every rank.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "collective/collective.h"
#include "collective/layout.h"
#include "collective/mailbox.h"
#include "collective/summation.h"

namespace conclave::collective {

struct Group::State {
  State(transport::Transport* the_transport, const Clock& the_clock,
        std::vector<VirtualRank> virtual_ranks, const GroupOptions& the_options);

  Rank self() const { return transport == nullptr ? Rank{0} : transport->rank(); }
  std::size_t n_ranks() const { return transport == nullptr ? 1 : transport->n_ranks(); }

  transport::Transport* transport;
  const Clock& clock;
  GroupOptions options;
  Layout layout;
  std::optional<Mailbox> mailbox;  // where there is a transport
  GroupStats stats;

  // Room for an exchange, kept because a large one would fault in fresh pages each time.
  std::vector<std::vector<std::byte>> packed;  // by own index: partials as bf16
  std::vector<std::vector<std::byte>> sums;    // by own term
  std::vector<float> group_sum;
};

class Exchange {
 public:
  using Partial = std::function<std::span<const float>(std::size_t own_index)>;

  Exchange(Group::State& group, const Tag& tag, const Partial& partial, std::span<float> hidden,
           const RoutingCheck* routing);
  Result<void> run();

 private:
  struct Rows {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::size_t size() const { return end - begin; }
  };

  // The rows that a rank sums: in a direct exchange all, in a large one an even share.
  Rows rows_of(Rank rank) const;
  Wire wire_of(const Term& term) const;
  wire::DataHeader header(wire::DataKind kind) const;

  void prepare_own();
  Values prepare(const Term& term);
  void add_group(std::span<const Values> terms, std::span<float> sum) const;
  void send(wire::DataKind kind, bool with_routing);
  Result<void> receive(Rank from, wire::DataKind kind, bool with_routing);
  std::size_t routing_bytes(Rank from) const;
  std::span<const std::byte> experts_of(Rank rank) const;
  Result<void> repair();
  Result<void> recompute();
  Values values(const Term& term) const;
  void sum(std::span<float> out);
  Result<void> gather();

  Group::State& group_;
  const Tag& tag_;
  const Partial& partial_;
  std::span<float> hidden_;
  const RoutingCheck* routing_;
  Rank self_;
  std::size_t width_;
  std::size_t n_rows_;
  bool large_;
  std::vector<Values> own_;                           // by own term, all rows
  std::vector<std::span<const std::byte>> received_;  // by rank: its terms of rows_of(self_)
};

}  // namespace conclave::collective
