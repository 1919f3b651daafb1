// Multi-head latent attention on the CPU. docs/models.md 2.3, 2.4. Private to backend/cpu.
#pragma once

#include <span>
#include <vector>

#include "backend/cpu/attention.h"

namespace conclave::backend {

// Rows per chunk from which the naive form needs fewer operations than the absorbed one:
// decompressing costs kv_lora * (nope + v) per position and head, and every row then saves
// 2 * kv_lora - nope - v. About 170 for Kimi K2. SIZE_MAX where it never pays.
std::size_t naive_rows_min(const model::ModelConfig& config);

class LatentAttention final : public Attention {
 public:
  LatentAttention(const model::ModelConfig& config, const CpuContext& context);

  void begin_step(const Step& step, std::span<const SliceWeights* const> slices) override;
  void run(std::size_t layer, const CommonLayer& common, const Step& step, const Rows& x,
           KvCache& cache, std::span<float* const> outs) override;

 private:
  struct Head {
    std::size_t slice;  // into slices_
    std::size_t index;  // in the slice
  };
  struct NaiveScratch {
    std::vector<float> key_panels, value_panels, block_panels, keys, values, scores, sums, page;
    std::vector<float> queries, out;
    RunningSoftmax softmax;
  };

  bool naive(const SequenceRows& rows) const { return !rows.decode && rows.n_rows >= naive_min_; }
  const SliceLayer& weights(std::size_t slice, std::size_t layer) const {
    return slices_[slice].weights->layers[layer];
  }
  // Where the row's query of a head begins.
  float* query(const Head& head, std::size_t row);
  float* attended(const Head& head, std::size_t row);

  void project(std::size_t layer, const CommonLayer& common, const Rows& x);
  void write_cache(std::size_t layer, const CommonLayer& common, KvCache& cache);

  void absorb_queries(std::size_t layer);
  void attend_absorbed(std::size_t layer, const KvCache& cache);
  void attend_row(std::size_t layer, std::size_t index, kernels::Range heads, const KvCache& cache,
                  std::size_t thread);
  void expand_values(std::size_t layer);

  void attend_naive(std::size_t layer, const Step& step, const KvCache& cache);
  void attend_naive_head(std::size_t layer, const SequenceRows& sequence, const Head& head,
                         const KvCache& cache, NaiveScratch& scratch);
  // One page of positions, whose keys and values stand in the scratch, for the rows that see it.
  struct NaiveBlock {
    std::size_t begin;      // first position
    std::size_t n;          // positions
    std::size_t first_row;  // of the sequence's rows, the first that sees any of them
    std::size_t n_rows;
    const float* latent;  // [n, kv_width]
  };
  void naive_scores(const NaiveBlock& block, NaiveScratch& s) const;
  void naive_softmax(const NaiveBlock& block, std::size_t position, NaiveScratch& s) const;
  void naive_values(const NaiveBlock& block, NaiveScratch& s) const;

  const model::ModelConfig& config_;
  const CpuContext& context_;
  std::size_t naive_min_;

  StepRows rows_;
  std::vector<std::size_t> absorbed_;  // rows of the step in absorbed form
  Rows q_a_;                           // [R, q_lora]
  std::vector<float> kv_a_;            // [R, kv_width]
  std::vector<AttentionSlice> slices_;
  std::vector<Head> heads_;      // of all slices in this layer, one after the other
  std::vector<float> q_latent_;  // [heads, absorbed, kv_width]
  std::vector<float> o_latent_;  // [heads, absorbed, kv_lora]
  std::vector<Product> products_;
  std::vector<std::vector<float>> tiles_;
  struct ThreadScratch {
    Rows rows;
    std::vector<float> page, scores;
    RunningSoftmax softmax;
    NaiveScratch naive;
  };
  std::vector<ThreadScratch> scratch_;  // per thread
};

}  // namespace conclave::backend
