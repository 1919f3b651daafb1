// Attention on the CPU: what its two forms share. docs/models.md 2.3 to 2.5, 2.9. Private to
// backend/cpu.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kv_cache.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/weights.h"
#include "model/model.h"

namespace conclave::backend {

class Attention {
 public:
  virtual ~Attention() = default;
  // Prepares the rows of a step, once for all layers, and the slices that take part, which must
  // live until the next step.
  virtual void begin_step(const Step& step, std::span<const SliceWeights* const> slices) = 0;
  // outs[i][R, hidden] = the i-th slice's share of Attn(x); x is RMSNorm(hidden), rounded if
  // needed. The slices' heads are computed side by side, so that their number costs no extra loops.
  virtual void run(std::size_t layer, const CommonLayer& common, const Step& step, const Rows& x,
                   KvCache& cache, std::span<float* const> outs) = 0;
};

// Latent or grouped, as the model has it. Both references must outlive it.
std::unique_ptr<Attention> make_attention(const model::ModelConfig& config,
                                          const CpuContext& context);

// A slice in one step.
struct AttentionSlice {
  const SliceWeights* weights;
  std::vector<float> q;  // [R, heads * qk_head_dim]
  Rows attended;         // [R, heads * v]: what the heads made of the values
};
// outs[i][R, hidden] = o_proj of the i-th slice's attended rows, its bias where the slice has it;
// zeros where it lacks the layer.
void project_out(const CpuContext& context, std::size_t layer, std::size_t hidden_size,
                 std::span<AttentionSlice> slices, std::span<float* const> outs,
                 std::vector<std::vector<float>>& tiles);

// Where each row of a step stands: its sequence, its position and the rotation that belongs to it.
class StepRows {
 public:
  explicit StepRows(const model::ModelConfig& config);

  void begin(const Step& step);
  std::size_t size() const { return sequence_of_.size(); }
  const SequenceRows& sequence(std::size_t row) const { return *sequence_of_[row]; }
  std::size_t position(std::size_t row) const {
    return sequence(row).position + row - sequence(row).first_row;
  }
  // Rotates pairs (2j, 2j+1), or (j, j + half) where the checkpoint says so. docs/models.md 2.5.
  void rotate(std::size_t row, std::span<float> x) const;
  float softmax_scale() const { return static_cast<float>(rope_.softmax_scale); }

 private:
  bool interleaved_;
  model::RopeTable rope_;
  std::vector<float> angles_;                     // [R, rope]: cos and sin interleaved
  std::vector<const SequenceRows*> sequence_of_;  // [R]
};

// Softmax over scores that come a page at a time: each row's highest score and sum so far.
class RunningSoftmax {
 public:
  void begin(std::size_t rows);
  // A score that counts in the row's sum and has no value: gpt-oss's sinks. After begin.
  void set_sink(std::size_t row, float score);
  // The scores of a row that it sees become exp(score - highest); keep()[row] is what its earlier
  // sums must be multiplied by.
  void add(const kernels::Operations& ops, std::size_t row, std::span<float> seen);
  // A row that sees none of a page keeps all.
  void skip(std::size_t row) { keep_[row] = 1.0f; }
  const float* keep() const { return keep_.data(); }
  float sum(std::size_t row) const { return sum_[row]; }

 private:
  std::vector<float> highest_, sum_, keep_;
};

}  // namespace conclave::backend
