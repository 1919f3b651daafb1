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
  CpuBackend(const model::ModelConfig& config, const model::Slice& slice, kernels::Isa isa,
             const CpuOptions& options, std::unique_ptr<ThreadPool> pool, CpuWeights weights,
             KvCache cache);
  CpuBackend(const CpuBackend&) = delete;
  CpuBackend& operator=(const CpuBackend&) = delete;

  const model::ModelConfig& config() const override { return config_; }
  const Limits& limits() const override { return limits_; }
  std::string describe() const override;

  void embed(const Step& step) override;
  void begin(const Step& step, std::span<const float> residual) override;
  std::span<const float> residual() override { return hidden_; }
  void attention(LayerId layer) override;
  Routing route(LayerId layer, std::span<const ExpertId> forced) override;
  void feed_forward(LayerId layer) override;
  std::span<float> partial() override { return {partial_.data(), hidden_.size()}; }
  void add_partial() override;
  std::span<const float> head() override;

 private:
  // What both ways to start a step have in common; leaves hidden to be filled.
  void start(const Step& step);
  // normed = RMSNorm(hidden), rounded to int8 if any of its readers wants that.
  void normalize(std::span<const float> weight, bool rounded);

  model::ModelConfig config_;
  model::Slice slice_;
  kernels::Isa isa_;
  Limits limits_;
  std::unique_ptr<ThreadPool> pool_;
  CpuContext context_;
  CpuWeights weights_;
  KvCache cache_;
  Attention attention_;
  FeedForward feed_forward_;

  Step step_;
  std::vector<float> hidden_;   // [R, H]
  std::vector<float> partial_;  // [R, H]
  Rows normed_;                 // [R, H]
  bool routed_ = false;         // normed_ already holds the FFN's input
  std::vector<float> logits_;   // [head rows, V]
  std::vector<std::vector<float>> tiles_;
};

}  // namespace conclave::backend
