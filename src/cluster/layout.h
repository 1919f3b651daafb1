// How a model is divided into virtual ranks, who holds them and who computes them. Pure functions.
//
// A *group* is one machine's share when the model is placed; its home is that machine. A group
// whose loss is to be covered is cut into several virtual ranks, one for each machine that backs it
// up, so that a take-over spreads over all survivors. The head's group is whole: if the head dies
// there is nothing to take over. docs/design.md 3.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "model/model.h"
#include "plan/plan.h"
#include "wire/wire.h"

namespace conclave::cluster {

using NodeId = Id<struct NodeTag, std::uint64_t>;
inline constexpr NodeId kHeadNode{0};
inline constexpr std::size_t kVirtualRanksMax = 4096;

struct VirtualRank {
  std::uint16_t group = 0;
  model::Slice slice;
  std::uint64_t weight_bytes = 0;
  bool operator==(const VirtualRank&) const = default;
};

struct Layout {
  std::uint64_t id = 0;  // 0: none
  plan::Strategy strategy = plan::Strategy::kSlice;
  bool attention_replicated = false;       // every rank computes all heads by itself
  std::uint64_t model = 0;                 // ModelSource::fingerprint
  std::vector<VirtualRank> virtual_ranks;  // in summing order, groups ascending
  std::vector<NodeId> homes;               // [group]; [0] is the head
  std::uint64_t common_bytes = 0;          // on every node: what no slice divides
  std::uint64_t embedding_bytes = 0;       // on the head besides
  std::uint64_t kv_bytes = 0;              // on every node
  // How every rank keeps and computes it.
  model::WeightsMode weights = model::WeightsMode::kNative;
  bool exact = false;
  std::size_t rows_max = 512;
  std::size_t pages = 0;      // of the KV cache
  double step_seconds = 0.0;  // predicted, batch 1
};

// The ranges that each of `ranks` gets, contiguous in rank order; unit sizes as in
// docs/design.md 3. Columns of dense layers and of shared experts follow the shares of the experts'
// columns.
std::vector<model::Slice> slices_of(const model::ModelConfig& config,
                                    const plan::Placement& placement);

// Cuts a slice into `n` of nearly equal width, whole units each; some may be empty.
std::vector<model::Slice> cut(const model::ModelConfig& config, const model::Slice& slice,
                              std::size_t n);

// Which virtual ranks each node is to hold.
using Holdings = std::map<NodeId, std::set<std::size_t>>;

struct NodeRoom {
  NodeId node;
  std::uint64_t usable_bytes = 0;
};

// Homes hold their groups; what has no living home goes to whoever has room and computes least;
// then as many further copies as `copies` - 1 asks for, where there is room. What `held` says is in
// memory already stays where it is while it is of use. Virtual ranks that nobody has room for are
// missing from the result: see `uncovered`.
Holdings assign_holdings(const Layout& layout, std::span<const NodeRoom> nodes,
                         const Holdings& held, std::size_t copies);
// Virtual ranks that no node of `holdings` holds.
std::vector<std::size_t> uncovered(const Layout& layout, const Holdings& holdings);
// Losses of one node other than the head after which every virtual rank still has a holder, one
// after the other with the worst node first.
std::size_t losses_survived(const Layout& layout, const Holdings& holdings);

// Who computes each virtual rank, among those that hold it: its home if it can, else the holder
// with the least to compute. Nothing when some virtual rank has no holder.
std::optional<std::vector<NodeId>> assign_computing(const Layout& layout, const Holdings& held);

// kInvalidInput: there are replicas, and who computes an expert would not be decided: it is in no
// virtual rank's or several's `experts`, or two virtual ranks are the same. Slices are checked
// (model::check_slice).
Result<void> check_experts(const model::ModelConfig& config, const Layout& layout);
std::size_t n_replicas(const Layout& layout);  // copies of experts, all layers and groups

wire::pb::Layout to_message(const Layout& layout);
// kCorrupt: ranges that are no ranges, groups out of order, too many virtual ranks. `homes` stay
// empty: only the head knows them.
Result<Layout> from_message(const wire::pb::Layout& message);

}  // namespace conclave::cluster
