// The CPU backend: one object per worker process. Private to backend/cpu.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/feed_forward.h"
#include "backend/cpu/kv_cache.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/weights.h"
#include "base/thread_pool.h"

namespace conclave::backend {

class CpuBackend final : public Backend {
 public:
  CpuBackend(const model::ModelConfig& config, kernels::Isa isa, const CpuOptions& options,
             CommonWeights common, KvCache cache, std::shared_ptr<const ExpertDivision> division);
  CpuBackend(const CpuBackend&) = delete;
  CpuBackend& operator=(const CpuBackend&) = delete;

  const model::ModelConfig& config() const override { return config_; }
  const Limits& limits() const override { return limits_; }
  std::string describe() const override;

  void embed(const Step& step) override;
  void begin(const Step& step, std::span<const float> residual) override;
  std::span<float> hidden() override { return hidden_; }
  void attention(LayerId layer) override;
  Routing route(LayerId layer, std::span<const ExpertId> forced) override;
  void set_routing(LayerId layer, const Routing& routing) override;
  void feed_forward(LayerId layer) override;
  std::span<const float> partial(std::size_t i) override;
  void add_partial() override;
  void head() override;
  std::span<const float> logits(std::size_t i) override;

  std::span<const model::Slice> slices() const override { return slices_; }
  void activate(std::span<const std::size_t> slices) override;
  std::span<const std::size_t> active() const override { return active_; }
  Result<void> hold(const model::ModelSource& source, const model::Slice& slice,
                    const WeightArena& arena) override;
  void release(std::size_t slice) override;

 private:
  // What both ways to start a step have in common; leaves hidden to be filled.
  void start(const Step& step);
  // normed = RMSNorm(hidden), rounded to int8 if any of its readers wants that.
  void normalize(std::span<const float> weight, bool rounded);
  void normalize_for_experts(LayerId layer);
  // Whether a matrix of the slices in this step, which all keep it in one format, wants that.
  template <class Matrices>
  bool any_rounds(LayerId layer, const Matrices& matrices) const;

  model::ModelConfig config_;
  kernels::Isa isa_;
  model::WeightsMode weights_mode_;
  Limits limits_;
  std::unique_ptr<ThreadPool> pool_;
  CpuContext context_;
  CommonWeights common_;
  KvCache cache_;
  std::unique_ptr<Attention> attention_;
  std::shared_ptr<const ExpertDivision> division_;  // may be null
  FeedForward feed_forward_;

  std::vector<model::Slice> slices_;                    // held
  std::vector<std::unique_ptr<SliceWeights>> weights_;  // of slices_; stay in place as others come
  std::vector<std::size_t> active_;                     // from the next step on

  Step step_;
  std::vector<const SliceWeights*> stepping_;  // the slices in this step
  std::vector<float> hidden_;                  // [R, H]
  std::vector<std::vector<float>> partials_;   // by slice in this step: [R, H]
  std::vector<float*> outs_;                   // partials_
  Rows normed_;                                // [R, H]
  bool routed_ = false;                        // normed_ already holds the FFN's input
  std::vector<std::vector<float>> logits_;     // by slice in this step: [head rows, V]
  std::vector<std::vector<float>> tiles_;
};

}  // namespace conclave::backend
