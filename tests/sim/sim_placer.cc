#include "sim_placer.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/rng.h"

namespace conclave::cluster_sim {
namespace {

constexpr std::size_t kColumns = 32;  // of a unit

std::uint64_t fixed_bytes(bool is_head) {
  return kCommonBytes + kKvBytes + (is_head ? kEmbeddingBytes : 0);
}

}  // namespace

std::uint64_t bytes_for(std::size_t units, bool is_head) {
  return fixed_bytes(is_head) + units * kUnitBytes;
}

std::size_t units_in(std::uint64_t usable_bytes, bool is_head) {
  const std::uint64_t fixed = fixed_bytes(is_head);
  return usable_bytes < fixed ? 0 : (usable_bytes - fixed) / kUnitBytes;
}

SimPlacer::SimPlacer(const model::ModelConfig& config, const SimPlacerOptions& options)
    : config_(config), options_(options), n_units_(config.moe_intermediate_size / kColumns) {
  CHECK(n_units_ * kColumns == config.moe_intermediate_size);
}

// Unit after unit, to those that want any first.
std::vector<std::size_t> SimPlacer::deal(sim::RandomStream& random, std::size_t n_units,
                                         std::span<const std::size_t> rooms) const {
  std::vector<double> wishes;
  for (std::size_t i = 0; i < rooms.size(); ++i) {
    wishes.push_back(random.chance(0.25) ? 0.0 : random.uniform());
  }
  std::vector<std::size_t> shares(rooms.size());
  for (std::size_t unit = 0; unit < n_units; ++unit) {
    std::optional<std::size_t> best;
    const auto need = [&](std::size_t i) {
      return wishes[i] / (1.0 + static_cast<double>(shares[i]));
    };
    for (std::size_t i = 0; i < rooms.size(); ++i) {
      if (shares[i] < rooms[i] && (!best || need(i) > need(*best))) best = i;
    }
    CHECK(best.has_value());
    ++shares[*best];
  }
  return shares;
}

Result<cluster::Layout> SimPlacer::place(std::span<const cluster::NodeFacts> nodes) {
  CHECK(!nodes.empty() && nodes[0].node == cluster::kHeadNode);
  std::uint64_t key = options_.seed;
  std::vector<std::size_t> rooms;
  for (const cluster::NodeFacts& node : nodes) {
    key = hash_combine(key, node.node.value);
    rooms.push_back(units_in(static_cast<std::uint64_t>(node.machine.usable_bytes),
                             node.node == cluster::kHeadNode));
  }
  const std::size_t room = std::accumulate(rooms.begin(), rooms.end(), std::size_t{0});
  if (room < n_units_) {
    return exhausted(std::to_string(n_units_ - room) + " units do not fit");
  }
  sim::RandomStream random(key);
  const std::vector<std::size_t> any(nodes.size(), SIZE_MAX);
  const std::vector<std::size_t> columns = deal(random, n_units_, rooms);
  const std::vector<std::size_t> heads = deal(random, config_.n_heads, any);
  const std::vector<std::size_t> vocab = deal(random, config_.vocab_size / kColumns, any);

  plan::Placement placement;
  cluster::Layout layout;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const bool idle = columns[i] + heads[i] + vocab[i] == 0;
    if (i > 0 && idle && random.chance(0.5)) continue;  // a stranger: it can hold backups
    plan::Rank rank;
    rank.machine = i;
    rank.n_heads = heads[i];
    rank.expert_units = columns[i];
    rank.vocab_units = vocab[i];
    placement.ranks.push_back(rank);
    layout.homes.push_back(nodes[i].node);
  }
  layout.strategy = placement.strategy = plan::Strategy::kSlice;
  layout.model = 1;
  layout.common_bytes = kCommonBytes;
  layout.embedding_bytes = kEmbeddingBytes;
  layout.kv_bytes = kKvBytes;
  layout.rows_max = options_.rows_max;
  layout.pages = options_.pages;
  layout.exact = options_.exact;
  layout.step_seconds = 0.01 * static_cast<double>(*std::ranges::max_element(columns));
  const std::vector<model::Slice> slices = cluster::slices_of(config_, placement);
  for (std::size_t group = 0; group < slices.size(); ++group) {
    const bool covered = group > 0 && options_.cover_losses > 0;
    for (const model::Slice& slice :
         cluster::cut(config_, slices[group], covered ? nodes.size() - 1 : 1)) {
      layout.virtual_ranks.push_back(
          {.group = static_cast<std::uint16_t>(group),
           .slice = slice,
           .weight_bytes = slice.expert_columns.size() / kColumns * kUnitBytes});
    }
  }
  return layout;
}

}  // namespace conclave::cluster_sim
