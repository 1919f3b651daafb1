#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace conclave::backend {

CpuBackend::CpuBackend(const model::ModelConfig& config, const model::Slice& slice,
                       kernels::Isa isa, const CpuOptions& options,
                       std::unique_ptr<ThreadPool> pool, CpuWeights weights, KvCache cache)
    : config_(config),
      slice_(slice),
      isa_(isa),
      limits_(options.limits),
      pool_(std::move(pool)),
      context_{kernels::operations(isa), *pool_, options.exact},
      weights_(std::move(weights)),
      cache_(std::move(cache)),
      attention_(config_, context_, slice.heads.size()),
      feed_forward_(config_, context_),
      tiles_(pool_->size()) {}

std::string CpuBackend::describe() const {
  return "cpu " + std::string(name(isa_)) + ", " + std::to_string(pool_->size()) +
         (pool_->size() == 1 ? " thread" : " threads") + (context_.exact ? ", exact" : "");
}

void CpuBackend::start(const Step& step) {
  CHECK(!step.tokens.empty() && step.tokens.size() <= limits_.rows_max);
  step_ = step;
  const std::size_t n = step.tokens.size();
  const std::size_t hidden = config_.hidden_size;
  hidden_.resize(n * hidden);
  partial_.resize(n * hidden);
  normed_.resize(n, hidden);
  attention_.begin_step(step);
}

void CpuBackend::embed(const Step& step) {
  CHECK(slice_.embedding);
  start(step);
  const std::size_t hidden = config_.hidden_size;
  for (std::size_t row = 0; row < step.tokens.size(); ++row) {
    CHECK(step.tokens[row].value < config_.vocab_size);
    kernels::dequantize_row(weights_.embedding, step.tokens[row].value, 0,
                            std::span(hidden_).subspan(row * hidden, hidden));
  }
}

void CpuBackend::begin(const Step& step, std::span<const float> residual) {
  start(step);
  CHECK(residual.size() == hidden_.size());
  std::copy(residual.begin(), residual.end(), hidden_.begin());
}

void CpuBackend::normalize(std::span<const float> weight, bool rounded) {
  const std::size_t hidden = config_.hidden_size;
  pool_->parallel_for(normed_.size(), [&](std::size_t row, std::size_t) {
    context_.ops.rms_norm({hidden_.data() + row * hidden, hidden}, weight, config_.rms_norm_eps,
                          normed_.row(row).data());
    if (rounded) normed_.round_row(context_.ops, row);
  });
}

void CpuBackend::attention(LayerId layer) {
  const LayerWeights& w = weights_.layers[layer.value];
  const bool query = context_.rounds(config_.q_lora_rank > 0 ? w.q_a : w.q);
  normalize(w.input_norm, query || context_.rounds(w.kv_a));
  attention_.run(layer.value, w, step_, normed_, cache_, partial_.data());
}

Routing CpuBackend::route(LayerId layer, std::span<const ExpertId> forced) {
  if (!config_.is_moe(layer)) return {};
  const LayerWeights& w = weights_.layers[layer.value];
  const bool shared = config_.n_shared_experts > 0 && context_.rounds(w.shared.gate);
  normalize(w.post_attention_norm, shared || context_.rounds(w.experts[0].gate));
  routed_ = true;
  return feed_forward_.route(w, normed_, forced);
}

void CpuBackend::feed_forward(LayerId layer) {
  const LayerWeights& w = weights_.layers[layer.value];
  if (config_.is_moe(layer)) {
    CHECK(routed_);
    routed_ = false;
    feed_forward_.run_experts(w, normed_, partial_.data());
    return;
  }
  normalize(w.post_attention_norm, context_.rounds(w.dense.gate));
  feed_forward_.run_dense(w.dense, normed_, partial_.data());
}

void CpuBackend::add_partial() {
  const std::size_t hidden = config_.hidden_size;
  pool_->parallel_for(normed_.size(), [&](std::size_t row, std::size_t) {
    context_.ops.axpy(1.0f, {partial_.data() + row * hidden, hidden},
                      hidden_.data() + row * hidden);
  });
}

std::span<const float> CpuBackend::head() {
  const std::size_t n = step_.head_rows.size();
  const std::size_t hidden = config_.hidden_size;
  const std::size_t vocab = weights_.head.rows;
  const bool rounded = context_.rounds(weights_.head);
  logits_.resize(n * vocab);
  normed_.resize(n, hidden);
  pool_->parallel_for(n, [&](std::size_t i, std::size_t) {
    context_.ops.rms_norm({hidden_.data() + step_.head_rows[i] * hidden, hidden},
                          weights_.final_norm, config_.rms_norm_eps, normed_.row(i).data());
    if (rounded) normed_.round_row(context_.ops, i);
  });
  for (auto& tile : tiles_) tile.resize(n * kChunkRows);
  const Product product[] = {{&weights_.head, normed_.view(), logits_.data(), vocab}};
  multiply(context_, product, tiles_);
  return logits_;
}

std::size_t cpu_weight_bytes(const model::ModelSource& source, const model::Slice& slice,
                             const CpuOptions& options) {
  return planned_bytes(source, slice, options.weights);
}

std::size_t cpu_page_bytes(const model::ModelConfig& config, bool exact) {
  return config.n_layers * kPageTokens * config.kv_width() *
         (exact ? sizeof(float) : sizeof(std::uint16_t));
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const model::ModelSource& source,
                                                  const model::Slice& slice,
                                                  const CpuOptions& options, WeightArena& arena,
                                                  const LoadProgress& progress) {
  const model::ModelConfig& config = source.config();
  const kernels::Isa isa = TRY(kernels::choose_isa(options.isa));
  KvCache cache =
      TRY(KvCache::create(config.n_layers, options.limits.pages, config.kv_width(), options.exact));
  auto pool = std::make_unique<ThreadPool>(options.threads);
  CpuWeights weights = TRY(load_weights(source, slice, options.weights, arena, *pool, progress));
  return std::unique_ptr<Backend>(std::make_unique<CpuBackend>(
      config, slice, isa, options, std::move(pool), std::move(weights), std::move(cache)));
}

}  // namespace conclave::backend
