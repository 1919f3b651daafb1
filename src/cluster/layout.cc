#include "cluster/layout.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace conclave::cluster {
namespace {

using kernels::Range;

constexpr std::size_t kUnit = 32;  // columns of experts, rows of the vocabulary

std::size_t units_in(std::size_t width) { return (width + kUnit - 1) / kUnit; }

// Boundaries of `width` in whole units where the shares before them sum to so much of the whole.
std::vector<Range> divided(std::size_t width, std::span<const std::size_t> shares) {
  const std::size_t total = std::accumulate(shares.begin(), shares.end(), std::size_t{0});
  const std::size_t units = units_in(width);
  std::vector<Range> ranges;
  std::size_t before = 0;
  std::size_t begin = 0;
  for (const std::size_t share : shares) {
    before += share;
    const std::size_t unit = total == 0 ? units : (units * before * 2 + total) / (total * 2);
    const std::size_t end = std::min(width, unit * kUnit);
    ranges.push_back({begin, end});
    begin = end;
  }
  if (!ranges.empty()) ranges.back().end = width;
  return ranges;
}

Range piece(Range range, std::size_t unit, std::size_t i, std::size_t n) {
  const std::size_t units = (range.size() + unit - 1) / unit;
  const std::size_t begin = range.begin + units * i / n * unit;
  const std::size_t end = range.begin + units * (i + 1) / n * unit;
  return {std::min(begin, range.end), std::min(end, range.end)};
}

// Layers, whole; one rank, whose layers need not be the last, has the head.
std::vector<model::Slice> stages_of(const model::ModelConfig& config,
                                    const plan::Placement& placement) {
  std::vector<model::Slice> stages;
  std::size_t layer = 0;
  std::size_t vocab = 0;
  for (const plan::Rank& rank : placement.ranks) {
    model::Slice slice = model::Slice::whole(config);
    slice.embedding = false;
    slice.layers = {layer, layer + rank.n_layers};
    slice.vocab = {vocab, rank.vocab_units > 0 ? config.vocab_size : vocab};
    layer = slice.layers.end;
    vocab = slice.vocab.end;
    stages.push_back(slice);
  }
  CHECK(layer == config.n_layers && vocab == config.vocab_size);
  return stages;
}

}  // namespace

std::vector<model::Slice> slices_of(const model::ModelConfig& config,
                                    const plan::Placement& placement) {
  if (placement.strategy == plan::Strategy::kPipeline) return stages_of(config, placement);
  std::vector<std::size_t> columns;
  std::vector<std::size_t> vocab;
  for (const plan::Rank& rank : placement.ranks) {
    columns.push_back(rank.expert_units);
    vocab.push_back(rank.vocab_units);
  }
  const std::vector<Range> expert = divided(config.moe_intermediate_size, columns);
  const std::vector<Range> shared = divided(config.shared_intermediate_size(), columns);
  const std::vector<Range> dense = divided(config.intermediate_size, columns);
  const std::vector<Range> rows = divided(config.vocab_size, vocab);
  std::vector<model::Slice> slices;
  std::size_t head = 0;
  std::size_t expert_id = 0;
  for (std::size_t i = 0; i < placement.ranks.size(); ++i) {
    model::Slice slice;
    if (!placement.attention_replicated) {
      slice.heads = {head, head + placement.ranks[i].n_heads};
      head = slice.heads.end;
    }
    slice.expert_columns = expert[i];
    if (placement.strategy == plan::Strategy::kExpert) {
      slice.expert_columns = {0, config.moe_intermediate_size};
      slice.experts = {expert_id, expert_id + placement.ranks[i].n_experts};
      expert_id = slice.experts.end;
    }
    slice.shared_columns = shared[i];
    slice.dense_columns = dense[i];
    slice.vocab = rows[i];
    slice.embedding = false;  // the head's common part has it
    slices.push_back(slice);
  }
  CHECK(placement.attention_replicated || head == config.n_heads);
  CHECK(placement.strategy != plan::Strategy::kExpert || expert_id == config.n_experts);
  return slices;
}

namespace {

// Whole layers; whoever has the last of them has the stage's share of the vocabulary.
std::vector<model::Slice> cut_stage(const model::Slice& slice, std::size_t n) {
  std::vector<model::Slice> pieces;
  for (std::size_t i = 0; i < n; ++i) {
    model::Slice part = slice;
    part.layers = piece(slice.layers, 1, i, n);
    // The last piece is never empty unless all are.
    if (i + 1 < n) part.vocab = {slice.vocab.begin, slice.vocab.begin};
    pieces.push_back(part);
  }
  return pieces;
}

}  // namespace

std::vector<model::Slice> cut(const model::ModelConfig& config, const model::Slice& slice,
                              std::size_t n) {
  CHECK(n > 0);
  CHECK(slice.vocab.end <= config.vocab_size);
  std::vector<model::Slice> pieces;
  if (slice.layers != model::kAll) return cut_stage(slice, n);
  for (std::size_t i = 0; i < n; ++i) {
    model::Slice part;
    part.heads = piece(slice.heads, 1, i, n);
    part.expert_columns = piece(slice.expert_columns, kUnit, i, n);
    if (slice.experts != model::kAll) {
      part.expert_columns = slice.expert_columns;
      part.experts = piece(slice.experts, 1, i, n);
      const auto copies = static_cast<std::ptrdiff_t>(slice.replicas.size());
      const auto whole = static_cast<std::ptrdiff_t>(n);
      const auto nth = static_cast<std::ptrdiff_t>(i);
      part.replicas.assign(slice.replicas.begin() + copies * nth / whole,
                           slice.replicas.begin() + copies * (nth + 1) / whole);
    }
    part.shared_columns = piece(slice.shared_columns, kUnit, i, n);
    part.dense_columns = piece(slice.dense_columns, kUnit, i, n);
    part.vocab = piece(slice.vocab, kUnit, i, n);
    part.embedding = false;
    pieces.push_back(part);
  }
  return pieces;
}

namespace {

// Gives virtual ranks to nodes, one after the other, within their memory.
class Assigner {
 public:
  Assigner(const Layout& layout, std::span<const NodeRoom> nodes, const Holdings& held)
      : layout_(layout), held_(held) {
    for (const NodeRoom& node : nodes) {
      const std::uint64_t fixed = layout.common_bytes + layout.kv_bytes +
                                  (node.node == kHeadNode ? layout.embedding_bytes : 0);
      room_[node.node] = node.usable_bytes > fixed ? node.usable_bytes - fixed : 0;
      if (node.usable_bytes >= fixed) holdings_[node.node];
    }
  }

  void homes() {
    for (std::size_t v = 0; v < layout_.virtual_ranks.size(); ++v) give(v, home(v));
  }

  // One more holder for each virtual rank with fewer than `copies`: who has it in memory, else the
  // node with the least of others' work. The head's own needs none: nothing survives the head.
  void raise_to(std::size_t copies) {
    for (std::size_t v = 0; v < layout_.virtual_ranks.size(); ++v) {
      const bool needed = layout_.virtual_ranks[v].group != 0 || count(v) == 0;
      if (needed && count(v) < copies) give_best(v);
    }
  }

  Holdings result() && { return std::move(holdings_); }

 private:
  NodeId home(std::size_t v) const { return layout_.homes[layout_.virtual_ranks[v].group]; }
  std::uint64_t bytes(std::size_t v) const { return layout_.virtual_ranks[v].weight_bytes; }
  bool in_memory(NodeId node, std::size_t v) const {
    const auto it = held_.find(node);
    return it != held_.end() && it->second.contains(v);
  }
  std::size_t count(std::size_t v) const {
    return static_cast<std::size_t>(
        std::ranges::count_if(holdings_, [v](const auto& h) { return h.second.contains(v); }));
  }

  bool give(std::size_t v, NodeId node) {
    const auto it = holdings_.find(node);
    if (it == holdings_.end() || room_[node] < bytes(v)) return false;
    if (!it->second.insert(v).second) return false;
    room_[node] -= bytes(v);
    if (node != home(v)) extra_[node] += std::max<std::uint64_t>(bytes(v), 1);
    return true;
  }

  void give_best(std::size_t v) {
    std::optional<NodeId> best;
    for (const auto& [node, parts] : holdings_) {
      if (parts.contains(v) || room_[node] < bytes(v)) continue;
      if (!best || better(v, node, *best)) best = node;
    }
    if (best) give(v, *best);
  }

  bool better(std::size_t v, NodeId a, NodeId b) {
    if (in_memory(a, v) != in_memory(b, v)) return in_memory(a, v);
    if (extra_[a] != extra_[b]) return extra_[a] < extra_[b];
    return room_[a] > room_[b];
  }

  const Layout& layout_;
  const Holdings& held_;
  Holdings holdings_;
  std::map<NodeId, std::uint64_t> room_;
  std::map<NodeId, std::uint64_t> extra_;
};

}  // namespace

std::size_t n_replicas(const Layout& layout) {
  std::size_t n = 0;
  for (const VirtualRank& rank : layout.virtual_ranks) n += rank.slice.replicas.size();
  return n;
}

Result<void> check_experts(const model::ModelConfig& config, const Layout& layout) {
  if (n_replicas(layout) == 0) return {};
  std::vector<std::size_t> homes(config.n_experts, 0);
  for (const VirtualRank& rank : layout.virtual_ranks) {
    if (rank.slice.experts == model::kAll || rank.slice.layers != model::kAll) {
      return invalid_input("layout: replicas of experts, but not by whole experts");
    }
    if (!rank.slice.replicas.empty() &&
        std::ranges::count(layout.virtual_ranks, rank.slice, &VirtualRank::slice) > 1) {
      return invalid_input("layout: two virtual ranks have the same replicas");
    }
    const std::size_t end = std::min(rank.slice.experts.end, config.n_experts);
    for (std::size_t e = rank.slice.experts.begin; e < end; ++e) ++homes[e];
  }
  const auto wrong = std::ranges::find_if(homes, [](std::size_t n) { return n != 1; });
  if (wrong == homes.end()) return {};
  return invalid_input("layout: expert " + std::to_string(wrong - homes.begin()) + " belongs to " +
                       std::to_string(*wrong) + " virtual ranks");
}

Holdings assign_holdings(const Layout& layout, std::span<const NodeRoom> nodes,
                         const Holdings& held, std::size_t copies) {
  Assigner assigner(layout, nodes, held);
  assigner.homes();
  // Everything once before anything twice.
  for (std::size_t n = 1; n <= std::max<std::size_t>(copies, 1); ++n) assigner.raise_to(n);
  return std::move(assigner).result();
}

std::vector<std::size_t> uncovered(const Layout& layout, const Holdings& holdings) {
  std::vector<std::size_t> missing;
  for (std::size_t v = 0; v < layout.virtual_ranks.size(); ++v) {
    const bool has =
        std::ranges::any_of(holdings, [v](const auto& entry) { return entry.second.contains(v); });
    if (!has) missing.push_back(v);
  }
  return missing;
}

std::size_t losses_survived(const Layout& layout, const Holdings& holdings) {
  if (!uncovered(layout, holdings).empty()) return 0;
  std::size_t worst = std::numeric_limits<std::size_t>::max();
  for (const auto& [lost, parts] : holdings) {
    if (lost == kHeadNode) continue;
    Holdings rest = holdings;
    rest.erase(lost);
    const std::size_t more =
        uncovered(layout, rest).empty() ? 1 + losses_survived(layout, rest) : 0;
    worst = std::min(worst, more);
    if (worst == 0) break;
  }
  return worst == std::numeric_limits<std::size_t>::max() ? 0 : worst;
}

std::optional<std::vector<NodeId>> assign_computing(const Layout& layout, const Holdings& held) {
  std::vector<NodeId> computing(layout.virtual_ranks.size());
  std::vector<std::size_t> homeless;
  std::map<NodeId, std::uint64_t> load;
  const auto holds = [&held](NodeId node, std::size_t v) {
    const auto it = held.find(node);
    return it != held.end() && it->second.contains(v);
  };
  for (std::size_t v = 0; v < computing.size(); ++v) {
    const VirtualRank& rank = layout.virtual_ranks[v];
    const NodeId home = layout.homes[rank.group];
    if (!holds(home, v)) {
      homeless.push_back(v);
      continue;
    }
    computing[v] = home;
    load[home] += rank.weight_bytes;
  }
  for (const std::size_t v : homeless) {
    std::optional<NodeId> best;
    for (const auto& [node, parts] : held) {
      if (parts.contains(v) && (!best || load[node] < load[*best])) best = node;
    }
    if (!best) return std::nullopt;
    computing[v] = *best;
    load[*best] += std::max<std::uint64_t>(layout.virtual_ranks[v].weight_bytes, 1);
  }
  return computing;
}

}  // namespace conclave::cluster
