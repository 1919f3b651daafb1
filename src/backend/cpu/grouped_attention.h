// Grouped-query attention on the CPU. docs/models.md 2.9. Private to backend/cpu.
//
// Every rank makes and caches the keys and values of all KV heads: they are a few percent of what
// it reads, and a rank that takes over another's query heads finds the past of theirs.
#pragma once

#include <span>
#include <vector>

#include "backend/cpu/attention.h"

namespace conclave::backend {

class GroupedAttention final : public Attention {
 public:
  GroupedAttention(const model::ModelConfig& config, const CpuContext& context);

  void begin_step(const Step& step, std::span<const SliceWeights* const> slices) override;
  void run(std::size_t layer, const CommonLayer& common, const Step& step, const Rows& x,
           KvCache& cache, std::span<float* const> outs) override;

 private:
  // Neighbouring query heads of one slice that share a KV head.
  struct Group {
    std::size_t slice;  // into slices_
    std::size_t first;  // head in the slice
    std::size_t n;
    std::size_t kv_head;
  };
  // Some rows of one sequence: they meet each page of keys together.
  struct RowBlock {
    std::size_t first;
    std::size_t n;
  };
  struct ThreadScratch {
    std::vector<float> keys, values, queries, scores, out;
    RunningSoftmax softmax;
  };

  const SliceLayer& weights(std::size_t slice, std::size_t layer) const {
    return slices_[slice].weights->layers[layer];
  }
  void find_groups(std::size_t layer);
  void project(std::size_t layer, const CommonLayer& common, const Rows& x);
  // Bias, norm and rotation of one head's query or key.
  void finish_head(std::size_t row, std::span<float> head, std::span<const float> bias,
                   std::span<const float> norm) const;
  void finish_queries(std::size_t row, const CommonLayer& common);
  void write_cache(std::size_t layer, const CommonLayer& common, KvCache& cache);
  // The positions that a row sees.
  kernels::Range seen(std::size_t row) const;
  void begin_softmax(const RowBlock& block, const Group& group, std::span<const float> sinks,
                     RunningSoftmax& softmax) const;
  void attend(std::size_t layer, const RowBlock& block, const Group& group,
              const CommonLayer& common, const KvCache& cache, ThreadScratch& scratch);
  // The scores of a page, [rows of the block, heads of the group, count], to probabilities; what
  // lies in a row's future, or before its window, gets 0.
  void softmax_page(const RowBlock& block, const Group& group, kernels::Range page,
                    ThreadScratch& scratch) const;

  const model::ModelConfig& config_;
  const CpuContext& context_;
  std::size_t head_dim_;
  std::size_t window_ = SIZE_MAX;  // of the layer that runs
  StepRows rows_;
  std::vector<float> k_, v_;  // [R, kv_heads * head_dim]
  std::vector<AttentionSlice> slices_;
  std::vector<Group> groups_;  // of all slices in this layer
  std::vector<RowBlock> blocks_;
  std::vector<Product> products_;
  std::vector<std::vector<float>> tiles_;
  std::vector<ThreadScratch> scratch_;  // per thread
};

}  // namespace conclave::backend
