// Divides a checkpoint over machines with the planner.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "cluster/head.h"
#include "cluster/hot_experts.h"
#include "model/model.h"
#include "plan/plan.h"

namespace conclave::cluster {

struct PlacerOptions {
  model::WeightsMode weights = model::WeightsMode::kNative;
  bool exact = false;
  std::size_t rows_max = 512;
  std::size_t pages = 0;                   // of the KV cache
  std::size_t batch = 1;                   // streams that are planned for
  std::size_t cover_losses = 1;            // backups wanted
  std::optional<plan::Strategy> strategy;  // absent: the fastest
  // Relative widths of the machines' shares, the head's first, instead of the planner's. 0 is
  // legal.
  std::vector<std::size_t> shares;
  // `expert`: so many of each layer's most chosen experts get a copy on a second machine, where
  // there is room. Absent: a sixteenth of them.
  std::optional<std::size_t> hot_experts;
  bool use_all_machines = false;   // also those that only slow the answer
  std::optional<plan::Link> link;  // between any two; absent: 10 gigabit Ethernet
};

class PlannerPlacer final : public Placer {
 public:
  // Errors: a configuration that the planner does not take. `source` must outlive the placer.
  static Result<std::unique_ptr<PlannerPlacer>> create(const model::ModelSource& source,
                                                       const PlacerOptions& options);

  Result<Layout> place(std::span<const NodeFacts> nodes) override;
  // How often experts were chosen; used from the next placement on.
  void set_expert_counts(ExpertCounts counts) { counts_ = std::move(counts); }

 private:
  PlannerPlacer(const model::ModelSource& source, const PlacerOptions& options,
                plan::Cluster cluster)
      : source_(source), options_(options), cluster_(std::move(cluster)) {}

  Result<plan::Placement> by_shares(std::size_t n_nodes) const;
  double largest_expert_bytes() const;
  ReplicaRoom replica_room(const Layout& layout, std::span<const NodeFacts> nodes,
                           std::span<const model::Slice> groups) const;
  void copy_hot_experts(const Layout& layout, std::span<const NodeFacts> nodes,
                        std::span<model::Slice> groups) const;
  Layout layout_of(const plan::Cluster& cluster, const plan::Placement& placement,
                   std::span<const NodeFacts> nodes) const;
  bool shrink_what_does_not_fit(const Layout& layout, std::span<const NodeFacts> nodes,
                                plan::Cluster& cluster) const;

  const model::ModelSource& source_;
  PlacerOptions options_;
  plan::Cluster cluster_;  // without machines
  std::optional<ExpertCounts> counts_;
};

}  // namespace conclave::cluster
