#include "cluster/planner_placer.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "backend/backend.h"
#include "cluster/folder_model.h"

namespace conclave::cluster {
namespace {

constexpr std::size_t kUnit = 32;
constexpr int kTries = 12;
constexpr std::size_t kHotShare = 16;  // of a layer's experts, one in so many

backend::CpuOptions cpu_options(const PlacerOptions& options) {
  backend::CpuOptions cpu;
  cpu.exact = options.exact;
  cpu.weights = options.weights;
  cpu.limits = {.rows_max = options.rows_max, .pages = options.pages};
  return cpu;
}

// `total` whole units by relative shares, the rounding spread evenly.
std::vector<std::size_t> dealt(std::size_t total, std::span<const std::size_t> shares) {
  const std::size_t sum = std::accumulate(shares.begin(), shares.end(), std::size_t{0});
  std::vector<std::size_t> units;
  std::size_t before = 0;
  std::size_t begin = 0;
  for (const std::size_t share : shares) {
    before += share;
    const std::size_t end = (total * before * 2 + sum) / (sum * 2);
    units.push_back(end - begin);
    begin = end;
  }
  return units;
}

// Whether what machines other than the head hold is to be backed up.
bool covers(const PlacerOptions& options, std::size_t n_nodes) {
  return options.cover_losses > 0 && n_nodes > 1;
}

// What a group's home holds besides slices.
std::uint64_t fixed_bytes(const Layout& layout, std::size_t group) {
  return layout.common_bytes + layout.kv_bytes + (group == 0 ? layout.embedding_bytes : 0);
}

// Whether these machines have room for everything once.
bool holds(const Layout& layout, std::span<const NodeFacts> nodes) {
  std::vector<NodeRoom> rooms;
  for (const NodeFacts& node : nodes) {
    rooms.push_back({node.node, static_cast<std::uint64_t>(node.machine.usable_bytes)});
  }
  return uncovered(layout, assign_holdings(layout, rooms, {}, 1)).empty();
}

void give_head_to_last_stage(plan::Placement& placement) {
  plan::Rank* last = nullptr;
  std::size_t units = 0;
  for (plan::Rank& rank : placement.ranks) {
    units += std::exchange(rank.vocab_units, 0);
    if (rank.n_layers > 0) last = &rank;
  }
  CHECK(last != nullptr);
  last->vocab_units = units;
}

}  // namespace

Result<std::unique_ptr<PlannerPlacer>> PlannerPlacer::create(const model::ModelSource& source,
                                                             const PlacerOptions& options) {
  plan::Cluster cluster;
  cluster.name = "pool";
  cluster.model = TRY(read_folder_model(source.path(), options.weights));
  const plan::Catalogue catalogue = TRY(plan::parse_catalogue(plan::built_in_sources()));
  cluster.software = TRY(plan::find_software(catalogue, "conclave"));
  plan::adopt_software(cluster);
  cluster.pool.link = options.link ? *options.link : TRY(plan::find_link(catalogue, "10gbe"));
  cluster.workload.batch = options.batch;
  cluster.workload.reserve_tokens = options.pages * backend::kPageTokens;
  cluster.workload.context = std::min<std::size_t>(
      512, cluster.workload.reserve_tokens / std::max<std::size_t>(options.batch, 1));
  cluster.policy.strategy = options.strategy;
  cluster.policy.cover_losses = options.cover_losses;
  cluster.policy.use_all_machines = options.use_all_machines;
  return std::unique_ptr<PlannerPlacer>(new PlannerPlacer(source, options, std::move(cluster)));
}

Result<plan::Placement> PlannerPlacer::by_shares(std::size_t n_nodes) const {
  std::vector<std::size_t> shares = options_.shares;
  if (shares.size() > n_nodes) shares.resize(n_nodes);
  while (shares.size() < n_nodes) shares.push_back(0);
  if (std::accumulate(shares.begin(), shares.end(), std::size_t{0}) == 0) shares[0] = 1;
  const model::ModelConfig& config = source_.config();
  plan::Placement placement;
  placement.strategy = options_.strategy.value_or(plan::Strategy::kSlice);
  placement.attention_replicated = placement.strategy == plan::Strategy::kSliceRa;
  const std::vector<std::size_t> heads = dealt(config.n_heads, shares);
  const std::vector<std::size_t> columns = dealt(config.moe_intermediate_size / kUnit, shares);
  const std::vector<std::size_t> vocab = dealt((config.vocab_size + kUnit - 1) / kUnit, shares);
  const std::vector<std::size_t> experts = dealt(config.n_experts, shares);
  const std::vector<std::size_t> layers = dealt(config.n_layers, shares);
  std::size_t layer = 0;
  for (std::size_t i = 0; i < n_nodes; ++i) {
    plan::Rank rank;
    rank.machine = i;
    rank.n_experts = placement.strategy == plan::Strategy::kExpert ? experts[i] : 0;
    rank.first_layer = layer;
    rank.n_layers = placement.strategy == plan::Strategy::kPipeline ? layers[i] : 0;
    layer += rank.n_layers;
    rank.n_heads = placement.attention_replicated ? config.n_heads : heads[i];
    rank.expert_units = columns[i];
    rank.vocab_units = vocab[i];
    placement.ranks.push_back(rank);
  }
  if (placement.strategy == plan::Strategy::kPipeline) give_head_to_last_stage(placement);
  return placement;
}

// Of one expert in one layer.
double PlannerPlacer::largest_expert_bytes() const {
  const model::ModelConfig& config = source_.config();
  const backend::CpuOptions cpu = cpu_options(options_);
  model::Slice one;
  one.embedding = false;
  one.expert_columns = {0, config.moe_intermediate_size};
  one.experts = {0, 0};
  const std::size_t without = backend::cpu_slice_bytes(source_, one, cpu);
  std::size_t with = without;
  for (std::size_t l = 0; l < config.n_layers; ++l) {
    const LayerId layer{static_cast<std::uint16_t>(l)};
    if (!config.is_moe(layer)) continue;
    one.replicas = {{layer, ExpertId{0}}};
    with = std::max(with, backend::cpu_slice_bytes(source_, one, cpu));
  }
  return static_cast<double>(with - without);
}

// Weights, caches and backups come first: docs/design.md 3.
ReplicaRoom PlannerPlacer::replica_room(const Layout& layout, std::span<const NodeFacts> nodes,
                                        std::span<const model::Slice> groups) const {
  const backend::CpuOptions cpu = cpu_options(options_);
  const bool covered = covers(options_, nodes.size());
  std::vector<double> own;
  for (const model::Slice& slice : groups) {
    own.push_back(static_cast<double>(backend::cpu_slice_bytes(source_, slice, cpu)));
  }
  const double all = std::accumulate(own.begin() + 1, own.end(), 0.0);  // the head has no backup
  const double n_others = static_cast<double>(nodes.size() - 1);
  ReplicaRoom room;
  if (covered) room.backup_share = 1.0 / n_others;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    double needed = own[g] + static_cast<double>(fixed_bytes(layout, g));
    // Backups come in whole pieces: room for one more than the mean.
    const double others = all - (g == 0 ? 0.0 : own[g]);
    if (covered) needed += (others + *std::ranges::max_element(own)) / n_others;
    const auto node = std::ranges::find(nodes, layout.homes[g], &NodeFacts::node);
    room.group_bytes.push_back(node->machine.usable_bytes - needed);
  }
  room.expert_bytes = largest_expert_bytes();
  return room;
}

void PlannerPlacer::copy_hot_experts(const Layout& layout, std::span<const NodeFacts> nodes,
                                     std::span<model::Slice> groups) const {
  const model::ModelConfig& config = source_.config();
  const std::size_t n_hot = options_.hot_experts.value_or(config.n_experts / kHotShare);
  if (!counts_ || n_hot == 0 || groups.size() < 2 || config.n_moe_layers() == 0) return;
  add_replicas(config, *counts_, n_hot, replica_room(layout, nodes, groups), groups);
}

Layout PlannerPlacer::layout_of(const plan::Cluster& cluster, const plan::Placement& placement,
                                std::span<const NodeFacts> nodes) const {
  const backend::CpuOptions cpu = cpu_options(options_);
  Layout layout;
  layout.strategy = placement.strategy;
  layout.attention_replicated = placement.attention_replicated;
  layout.model = source_.fingerprint();
  layout.weights = options_.weights;
  layout.exact = options_.exact;
  layout.rows_max = options_.rows_max;
  layout.pages = options_.pages;
  layout.common_bytes = backend::cpu_common_bytes(source_, false, cpu);
  layout.embedding_bytes = backend::cpu_common_bytes(source_, true, cpu) - layout.common_bytes;
  layout.kv_bytes = backend::cpu_kv_bytes(source_.config(), cpu.limits, cpu.exact);
  if (placement.attention_replicated) {
    model::Slice attention;
    attention.heads = {0, source_.config().n_heads};
    attention.embedding = false;
    layout.common_bytes += backend::cpu_slice_bytes(source_, attention, cpu);
  }
  for (const plan::Rank& rank : placement.ranks) {
    layout.homes.push_back(nodes[rank.machine].node);
  }
  std::vector<model::Slice> slices = slices_of(source_.config(), placement);
  if (placement.strategy == plan::Strategy::kExpert) copy_hot_experts(layout, nodes, slices);
  for (std::size_t group = 0; group < slices.size(); ++group) {
    // One piece for each machine that may take it over.
    const bool covered = group > 0 && covers(options_, nodes.size());
    for (const model::Slice& slice :
         cut(source_.config(), slices[group], covered ? nodes.size() - 1 : 1)) {
      layout.virtual_ranks.push_back(
          {.group = static_cast<std::uint16_t>(group),
           .slice = slice,
           .weight_bytes = backend::cpu_slice_bytes(source_, slice, cpu)});
    }
  }
  if (options_.shares.empty()) {
    layout.step_seconds = plan::predict(cluster, placement).step_seconds;
  }
  return layout;
}

// The planner counts parameters, the backend whole pages: where a home cannot hold its group by
// the second count, it is planned with less memory. False: everything fits.
bool PlannerPlacer::shrink_what_does_not_fit(const Layout& layout, std::span<const NodeFacts> nodes,
                                             plan::Cluster& cluster) const {
  bool changed = false;
  for (std::size_t group = 0; group < layout.homes.size(); ++group) {
    double needed = static_cast<double>(fixed_bytes(layout, group));
    for (const VirtualRank& rank : layout.virtual_ranks) {
      if (rank.group == group) needed += static_cast<double>(rank.weight_bytes);
    }
    const auto node = std::ranges::find(nodes, layout.homes[group], &NodeFacts::node);
    const double usable = node->machine.usable_bytes;
    if (needed <= usable) continue;
    plan::Machine& machine = cluster.pool.machines[static_cast<std::size_t>(node - nodes.begin())];
    machine.usable_bytes = std::max(1.0, machine.usable_bytes - 1.05 * (needed - usable));
    changed = true;
  }
  return changed;
}

Result<Layout> PlannerPlacer::place(std::span<const NodeFacts> nodes) {
  CHECK(!nodes.empty() && nodes.front().node == kHeadNode);
  plan::Cluster cluster = cluster_;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    plan::Machine machine = nodes[i].machine;
    machine.name += "-" + std::to_string(i);  // names are unique for the planner
    cluster.pool.machines.push_back(std::move(machine));
  }
  if (nodes.size() == 1) cluster.pool.link.reset();
  if (!options_.shares.empty()) {
    const plan::Placement placement = TRY(by_shares(nodes.size()));
    Layout layout = layout_of(cluster, placement, nodes);
    if (!holds(layout, nodes)) return exhausted("with these shares it does not fit their memory");
    return layout;
  }
  for (int i = 0; i < kTries; ++i) {
    const plan::Placement placement = TRY(plan::best_placement(cluster));
    Layout layout = layout_of(cluster, placement, nodes);
    if (!shrink_what_does_not_fit(layout, nodes, cluster)) return layout;
  }
  return exhausted("the model does not fit these machines in whole units");
}

}  // namespace conclave::cluster
