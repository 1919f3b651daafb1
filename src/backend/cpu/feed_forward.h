// The router and the feed-forward blocks on the CPU. docs/models.md 2.2, 2.6, 2.7. Private to
// backend/cpu.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/weights.h"
#include "model/model.h"

namespace conclave::backend {

// Where a row's choice is written.
struct ChosenExperts {
  std::span<ExpertId> ids;   // [K], ascending
  std::span<float> weights;  // [K], ready to multiply the experts' outputs
};
// Chooses experts from router scores: logits [E], bias [E]. Pure; one row at a time.
// `forced` (K ids or empty) replaces the choice. Ties go to the lower id.
void choose_experts(const model::ModelConfig& config, const kernels::Operations& ops,
                    std::span<const float> logits, std::span<const float> bias,
                    std::span<const ExpertId> forced, const ChosenExperts& chosen);

class FeedForward {
 public:
  // `division` may be null: then every expert is in one slice only.
  FeedForward(const model::ModelConfig& config, const CpuContext& context,
              const ExpertDivision* division);

  // Routing for all rows of x = RMSNorm(hidden); valid until the next call.
  Routing route(const CommonLayer& weights, const Rows& x, std::span<const ExpertId> forced);
  // Another rank's choice [R, K] for the next run_experts.
  void set_routing(const Routing& routing);
  // outs[i][R, hidden] = the i-th slice's share of the dense FFN of x.
  void run_dense(std::size_t layer, std::span<const SliceWeights* const> slices, const Rows& x,
                 std::span<float* const> outs);
  // outs[i][R, hidden] = the i-th slice's share of shared experts + routed experts by the last
  // routing. Contributions are added shared first, then by ascending expert id, so placement and
  // batch never change a bit. The slices are computed side by side, in one loop.
  void run_experts(std::size_t layer, std::span<const SliceWeights* const> slices, const Rows& x,
                   std::span<float* const> outs);

 private:
  // Which rows meet one FFN: the shared experts (or the dense FFN) all, an expert its own.
  struct Block {
    std::optional<ExpertId> expert;
    std::size_t member;  // who computes an expert that has replicas, else kAnyMember
    std::size_t first;   // into the gathered inputs and the inner activations
    std::size_t n;
  };
  // A block under one slice's weights.
  struct Group {
    const FfnWeights* weights;
    std::size_t slice;
    std::size_t first;
    std::size_t n;
  };

  void divide(LayerId layer);
  void sort_rows();
  const FfnWeights& weights_of(const Block& block, const SliceWeights& slice,
                               std::size_t layer) const;
  void gather(const Rows& x);
  void run_groups(const Rows& inputs, std::span<float* const> outs);
  void inner_chunk(const Group& group, const Rows& inputs, std::size_t chunk, std::size_t thread);
  void down_chunk(std::span<const Group> groups, Chunks chunks, std::size_t chunk,
                  std::size_t thread, float* out);

  const model::ModelConfig& config_;
  const CpuContext& context_;
  const ExpertDivision* division_;
  std::size_t n_rows_ = 0;
  std::vector<float> logits_;
  std::vector<ExpertId> expert_ids_;    // [R, K]
  std::vector<float> expert_weights_;   // [R, K]
  std::vector<std::uint16_t> members_;  // [R, K]: who computes it, or kAnyMember
  std::vector<Block> blocks_;           // shared (or dense) first, then experts ascending
  std::vector<Group> groups_;           // all blocks of the first slice, of the second, ...
  std::vector<std::size_t> row_of_;     // gathered row -> row of the step
  std::vector<float> weight_of_;        // gathered row -> routing weight, 1 for shared and dense
  Rows gathered_;
  std::vector<Rows> inner_;  // by slice: [gathered rows, widest intermediate size]
  struct ThreadScratch {
    std::vector<float> gate, up;
  };
  std::vector<ThreadScratch> scratch_;
  std::vector<std::vector<float>> tiles_;
};

}  // namespace conclave::backend
