// Multi-head latent attention on the CPU. docs/models.md 2.3 to 2.5. Private to backend/cpu.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kv_cache.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/weights.h"
#include "model/model.h"

namespace conclave::backend {

// Rows per chunk from which the naive form needs fewer operations than the absorbed one:
// decompressing costs kv_lora * (nope + v) per position and head, and every row then saves
// 2 * kv_lora - nope - v. About 170 for Kimi K2. SIZE_MAX where it never pays.
std::size_t naive_rows_min(const model::ModelConfig& config);

class Attention {
 public:
  Attention(const model::ModelConfig& config, const CpuContext& context, std::size_t heads);

  // Prepares rotary angles for the rows of a step, once for all layers.
  void begin_step(const Step& step);
  // out[R, hidden] = this slice's share of Attn(x); x is RMSNorm(hidden), rounded if needed.
  void run(std::size_t layer, const LayerWeights& weights, const Step& step, const Rows& x,
           KvCache& cache, float* out);

 private:
  struct NaiveScratch {
    std::vector<float> key_panels, value_panels, block_panels, keys, values, scores, sums, page;
    std::vector<float> queries, out, row_max, row_sum;
  };

  bool naive(const SequenceRows& rows) const { return !rows.decode && rows.n_rows >= naive_min_; }
  void project(const LayerWeights& weights, const Rows& x);
  void write_cache(std::size_t layer, const LayerWeights& weights, KvCache& cache);
  void rotate(std::size_t row, std::span<float> x) const;

  void absorb_queries(const LayerWeights& weights);
  void attend_absorbed(std::size_t layer, const KvCache& cache);
  void attend_row(std::size_t layer, const SequenceRows& sequence, std::size_t index,
                  std::size_t row, kernels::Range heads, const KvCache& cache, std::size_t thread);
  void expand_values(const LayerWeights& weights);

  void attend_naive(std::size_t layer, const LayerWeights& weights, const Step& step,
                    const KvCache& cache);
  void attend_naive_head(std::size_t layer, const LayerWeights& weights,
                         const SequenceRows& sequence, std::size_t head, const KvCache& cache,
                         NaiveScratch& scratch);
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
  std::size_t heads_;
  std::size_t naive_min_;
  model::RopeTable rope_;

  std::vector<float> angles_;                     // [R, rope]: cos and sin interleaved
  std::vector<const SequenceRows*> sequence_of_;  // [R]
  std::vector<std::size_t> absorbed_;             // rows of the step in absorbed form
  Rows q_a_;                                      // [R, q_lora]
  std::vector<float> kv_a_;                       // [R, kv_width]
  std::vector<float> q_;                          // [R, heads * qk_head_dim]
  std::vector<float> q_latent_;                   // [heads, absorbed, kv_width]
  std::vector<float> o_latent_;                   // [heads, absorbed, kv_lora]
  Rows attended_;                                 // [R, heads * v]
  std::vector<std::vector<float>> tiles_;
  struct ThreadScratch {
    Rows rows;
    std::vector<float> page, scores;
    NaiveScratch naive;
  };
  std::vector<ThreadScratch> scratch_;  // per thread
};

}  // namespace conclave::backend
