#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace conclave::backend {

CpuBackend::CpuBackend(const model::ModelConfig& config, kernels::Isa isa,
                       const CpuOptions& options, CommonWeights common, KvCache cache,
                       std::shared_ptr<const ExpertDivision> division)
    : config_(config),
      isa_(isa),
      weights_mode_(options.weights),
      limits_(options.limits),
      pool_(std::make_unique<ThreadPool>(options.threads, options.busy)),
      context_{kernels::operations(isa), *pool_, options.exact},
      common_(std::move(common)),
      cache_(cache),
      attention_(make_attention(config_, context_)),
      division_(std::move(division)),
      feed_forward_(config_, context_, division_.get()),
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
  normed_.resize(n, hidden);
  routed_ = false;
  stepping_.clear();
  for (const std::size_t slice : active_) stepping_.push_back(weights_[slice].get());
  partials_.resize(active_.size());
  logits_.resize(active_.size());
  outs_.clear();
  for (std::vector<float>& partial : partials_) {
    partial.resize(n * hidden);
    outs_.push_back(partial.data());
  }
  attention_->begin_step(step, stepping_);
}

void CpuBackend::embed(const Step& step) {
  CHECK(common_.embedding.is_here());
  start(step);
  const std::size_t hidden = config_.hidden_size;
  pool_->parallel_for(step.tokens.size(), [&](std::size_t row, std::size_t) {
    CHECK(step.tokens[row].value < config_.vocab_size);
    common_.embedding.read(step.tokens[row].value,
                           std::span(hidden_).subspan(row * hidden, hidden));
  });
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

template <class Matrices>
bool CpuBackend::any_rounds(LayerId layer, const Matrices& matrices) const {
  return std::ranges::any_of(stepping_, [&](const SliceWeights* slice) {
    return std::ranges::any_of(matrices(slice->layers[layer.value]),
                               [this](const auto& matrix) { return context_.rounds(matrix); });
  });
}

void CpuBackend::attention(LayerId layer) {
  const CommonLayer& w = common_.layers[layer.value];
  // A matrix that the model has not is no reason.
  const bool query = config_.q_lora_rank == 0 &&
                     any_rounds(layer, [](const SliceLayer& s) { return std::array{s.q}; });
  const auto rounds = [this](const auto&... matrices) {
    return (context_.rounds(matrices) || ...);
  };
  normalize(w.input_norm, query || rounds(w.q_a, w.kv_a, w.k, w.v));
  attention_->run(layer.value, w, step_, normed_, cache_, outs_);
}

void CpuBackend::normalize_for_experts(LayerId layer) {
  const bool shared = config_.n_shared_experts > 0 && any_rounds(layer, [](const SliceLayer& s) {
                        return std::array{s.shared.gate, s.shared.up};
                      });
  // A slice may hold none of the first experts; the gates of those it holds are alike, and the ups.
  const bool routed = any_rounds(layer, [](const SliceLayer& s) {
    const auto held =
        std::ranges::find_if(s.experts, [](const FfnWeights& e) { return e.gate.rows > 0; });
    return held == s.experts.end() ? std::array<kernels::PackedMatrix, 2>{}
                                   : std::array{held->gate, held->up};
  });
  normalize(common_.layers[layer.value].post_attention_norm, shared || routed);
  routed_ = true;
}

Routing CpuBackend::route(LayerId layer, std::span<const ExpertId> forced) {
  if (!config_.is_moe(layer)) return {};
  normalize_for_experts(layer);
  return feed_forward_.route(common_.layers[layer.value], normed_, forced);
}

void CpuBackend::set_routing(LayerId layer, const Routing& routing) {
  CHECK(config_.is_moe(layer));
  CHECK(routing.experts.size() == normed_.size() * config_.experts_per_token);
  normalize_for_experts(layer);
  feed_forward_.set_routing(routing);
}

void CpuBackend::feed_forward(LayerId layer) {
  if (config_.is_moe(layer)) {
    CHECK(routed_);
    routed_ = false;
    feed_forward_.run_experts(layer.value, stepping_, normed_, outs_);
    return;
  }
  normalize(common_.layers[layer.value].post_attention_norm,
            any_rounds(layer, [](const SliceLayer& s) {
              return std::array{s.dense.gate, s.dense.up};
            }));
  feed_forward_.run_dense(layer.value, stepping_, normed_, outs_);
}

std::span<const float> CpuBackend::partial(std::size_t i) {
  CHECK(i < partials_.size());
  return partials_[i];
}

void CpuBackend::add_partial() {
  CHECK(partials_.size() == 1);
  const std::size_t hidden = config_.hidden_size;
  pool_->parallel_for(normed_.size(), [&](std::size_t row, std::size_t) {
    context_.ops.axpy(1.0f, {partials_[0].data() + row * hidden, hidden},
                      hidden_.data() + row * hidden);
  });
}

void CpuBackend::head() {
  const std::size_t n = step_.head_rows.size();
  const std::size_t hidden = config_.hidden_size;
  const bool rounded = std::ranges::any_of(
      stepping_, [this](const SliceWeights* slice) { return context_.rounds(slice->head); });
  normed_.resize(n, hidden);
  pool_->parallel_for(n, [&](std::size_t i, std::size_t) {
    context_.ops.rms_norm({hidden_.data() + step_.head_rows[i] * hidden, hidden},
                          common_.final_norm, config_.rms_norm_eps, normed_.row(i).data());
    if (rounded) normed_.round_row(context_.ops, i);
  });
  for (auto& tile : tiles_) tile.resize(context_.tile_size(n));
  std::vector<Product> products;
  for (std::size_t s = 0; s < stepping_.size(); ++s) {
    const kernels::PackedMatrix& w = stepping_[s]->head;
    logits_[s].resize(n * w.rows);
    products.push_back({&w, normed_.view(), logits_[s].data(), w.rows});
  }
  multiply(context_, products, tiles_);
}

std::span<const float> CpuBackend::logits(std::size_t i) {
  CHECK(i < logits_.size());
  return logits_[i];
}

void CpuBackend::activate(std::span<const std::size_t> slices) {
  for (std::size_t i = 0; i < slices.size(); ++i) {
    CHECK(slices[i] < slices_.size());
    CHECK(std::ranges::count(slices, slices[i]) == 1);
  }
  active_.assign(slices.begin(), slices.end());
}

Result<void> CpuBackend::hold(const model::ModelSource& source, const model::Slice& slice,
                              const WeightArena& arena) {
  SliceWeights weights = TRY(attach_slice(source, slice, weights_mode_, arena));
  if (division_ && slice.experts != model::kAll) weights.member = division_->index_of(slice);
  slices_.push_back(slice);
  weights_.push_back(std::make_unique<SliceWeights>(std::move(weights)));
  return {};
}

void CpuBackend::release(std::size_t slice) {
  CHECK(slice < slices_.size() && std::ranges::find(active_, slice) == active_.end());
  slices_.erase(slices_.begin() + static_cast<std::ptrdiff_t>(slice));
  weights_.erase(weights_.begin() + static_cast<std::ptrdiff_t>(slice));
  for (std::size_t& active : active_) active -= active > slice ? 1 : 0;
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const model::ModelSource& source,
                                                  const CpuParts& parts,
                                                  const CpuOptions& options) {
  const model::ModelConfig& config = source.config();
  const kernels::Isa isa = TRY(kernels::choose_isa(options.isa));
  const KvCache cache = TRY(KvCache::attach(parts.kv, cpu_kv_key(source, options), config,
                                            options.limits.pages, options.exact));
  CommonWeights common = TRY(attach_common(source, parts.embedding, options.weights, parts.common));
  auto backend =
      std::make_unique<CpuBackend>(config, isa, options, std::move(common), cache, parts.division);
  std::vector<std::size_t> all;
  for (const HeldSlice& held : parts.slices) {
    all.push_back(backend->slices().size());
    TRY(backend->hold(source, held.slice, held.weights));
  }
  backend->activate(all);
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace conclave::backend
