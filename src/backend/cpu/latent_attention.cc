#include "backend/cpu/latent_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/check.h"

namespace conclave::backend {

using kernels::PackedMatrix;
using kernels::Range;

std::size_t naive_rows_min(const model::ModelConfig& config) {
  const std::size_t head = config.qk_nope_head_dim + config.v_head_dim;
  if (2 * config.kv_lora_rank <= head) return SIZE_MAX;
  const std::size_t saved = 2 * config.kv_lora_rank - head;
  return (config.kv_lora_rank * head + saved - 1) / saved;
}

LatentAttention::LatentAttention(const model::ModelConfig& config, const CpuContext& context)
    : config_(config),
      context_(context),
      naive_min_(naive_rows_min(config)),
      rows_(config),
      tiles_(context.pool.size()),
      scratch_(context.pool.size()) {}

void LatentAttention::begin_step(const Step& step, std::span<const SliceWeights* const> slices) {
  const std::size_t n_rows = step.tokens.size();
  slices_.resize(slices.size());
  for (std::size_t s = 0; s < slices.size(); ++s) slices_[s].weights = slices[s];
  rows_.begin(step);
  absorbed_.clear();
  for (std::size_t row = 0; row < n_rows; ++row) {
    if (!naive(rows_.sequence(row))) absorbed_.push_back(row);
  }
  for (auto& tile : tiles_) tile.resize(context_.tile_size(n_rows));
}

float* LatentAttention::query(const Head& head, std::size_t row) {
  AttentionSlice& slice = slices_[head.slice];
  const std::size_t width = config_.qk_head_dim();
  return slice.q.data() + (row * slice.weights->heads.size() + head.index) * width;
}

float* LatentAttention::attended(const Head& head, std::size_t row) {
  return slices_[head.slice].attended.row(row).data() + head.index * config_.v_head_dim;
}

// The slices' q and kv_a_ from x. Without q_lora one matrix makes q directly.
void LatentAttention::project(std::size_t layer, const CommonLayer& common, const Rows& x) {
  const std::size_t n = x.size();
  kv_a_.resize(n * config_.kv_width());
  products_.assign({{&common.kv_a, x.view(), kv_a_.data(), config_.kv_width()}});
  const bool direct = config_.q_lora_rank == 0;
  bool rounded = false;
  if (!direct) {
    q_a_.resize(n, config_.q_lora_rank);
    products_.insert(products_.begin(),
                     {&common.q_a, x.view(), q_a_.row(0).data(), config_.q_lora_rank});
    multiply(context_, products_, tiles_);
    for (std::size_t s = 0; s < slices_.size(); ++s)
      rounded |= context_.rounds(weights(s, layer).q);
    context_.pool.parallel_for(n, [&](std::size_t row, std::size_t) {
      const std::span<float> q_a = q_a_.row(row);
      context_.ops.rms_norm(q_a, common.q_a_norm, config_.inner_norm_eps, q_a.data());
      if (rounded) q_a_.round_row(context_.ops, row);
    });
    products_.clear();
  }
  for (std::size_t s = 0; s < slices_.size(); ++s) {
    const PackedMatrix& q = weights(s, layer).q;
    slices_[s].q.resize(n * q.rows);
    products_.push_back({&q, direct ? x.view() : q_a_.view(), slices_[s].q.data(), q.rows});
  }
  multiply(context_, products_, tiles_);
}

void LatentAttention::write_cache(std::size_t layer, const CommonLayer& common, KvCache& cache) {
  const std::size_t latent = config_.kv_lora_rank;
  context_.pool.parallel_for(rows_.size(), [&](std::size_t row, std::size_t) {
    const SequenceRows& sequence = rows_.sequence(row);
    const std::size_t position = rows_.position(row);
    const std::span<float> kv(kv_a_.data() + row * config_.kv_width(), config_.kv_width());
    context_.ops.rms_norm(kv.first(latent), common.kv_a_norm, config_.inner_norm_eps, kv.data());
    rows_.rotate(row, kv.subspan(latent));
    cache.write(layer, sequence.pages[position / kPageTokens], 0, position % kPageTokens, kv);
    for (const Head& head : heads_) {
      rows_.rotate(row, {query(head, row) + config_.qk_nope_head_dim, config_.qk_rope_head_dim});
    }
  });
}

// q_latent[h, i] = [W_uk[h]^T q_nope | q_pe]. docs/models.md 2.4.
void LatentAttention::absorb_queries(std::size_t layer) {
  const std::size_t n = absorbed_.size();
  const std::size_t nope = config_.qk_nope_head_dim;
  const std::size_t width = config_.kv_width();
  const std::size_t latent = config_.kv_lora_rank;
  q_latent_.resize(heads_.size() * n * width);
  context_.pool.parallel_for(heads_.size(), [&](std::size_t h, std::size_t thread) {
    const PackedMatrix& key_up = weights(heads_[h].slice, layer).key_up[heads_[h].index];
    Rows& rows = scratch_[thread].rows;
    rows.resize(n, nope);
    float* out = q_latent_.data() + h * n * width;
    for (std::size_t i = 0; i < n; ++i) {
      const float* q = query(heads_[h], absorbed_[i]);
      std::copy_n(q, nope, rows.row(i).data());
      if (context_.rounds(key_up)) rows.round_row(context_.ops, i);
      std::copy_n(q + nope, config_.qk_rope_head_dim, out + i * width + latent);
    }
    const std::size_t n_chunks = context_.chunks(rows.size()).count(key_up.rows);
    for (std::size_t chunk = 0; chunk < n_chunks; ++chunk) {
      multiply_chunk(context_, key_up, chunk, rows.view(), tiles_[thread],
                     [out, width](std::size_t i) { return out + i * width; });
    }
  });
}

// The index-th absorbed row, some heads, over all positions it sees: online softmax, a page at a
// time, in order.
void LatentAttention::attend_row(std::size_t layer, std::size_t index, Range heads,
                                 const KvCache& cache, std::size_t thread) {
  const std::size_t row = absorbed_[index];
  const SequenceRows& sequence = rows_.sequence(row);
  ThreadScratch& scratch = scratch_[thread];
  RunningSoftmax& softmax = scratch.softmax;
  const std::size_t latent = config_.kv_lora_rank;
  const std::size_t width = config_.kv_width();
  const std::size_t n = absorbed_.size();
  const std::size_t visible = rows_.position(row) + 1;
  scratch.page.resize(kPageTokens * width);
  scratch.scores.resize(heads.size() * kPageTokens);
  softmax.begin(heads.size());
  const float* q = q_latent_.data() + (heads.begin * n + index) * width;
  float* out = o_latent_.data() + (heads.begin * n + index) * latent;
  for (std::size_t h = 0; h < heads.size(); ++h) std::fill_n(out + h * n * latent, latent, 0.0f);

  for (std::size_t begin = 0; begin < visible; begin += kPageTokens) {
    const std::size_t count = std::min(kPageTokens, visible - begin);
    const float* rows = cache.read(layer, sequence.pages[begin / kPageTokens], 0, count,
                                   context_.ops, scratch.page);
    float* scores = scratch.scores.data();
    context_.ops.cache_scores({rows, count, width, width}, q, n * width, heads.size(),
                              rows_.softmax_scale(), scores);
    for (std::size_t h = 0; h < heads.size(); ++h) {
      softmax.add(context_.ops, h, {scores + h * count, count});
    }
    context_.ops.cache_values({rows, count, width, latent}, scores, softmax.keep(), heads.size(),
                              out, n * latent);
  }
  for (std::size_t h = 0; h < heads.size(); ++h) {
    context_.ops.scale(1.0f / softmax.sum(h), {out + h * n * latent, latent});
  }
}

void LatentAttention::attend_absorbed(std::size_t layer, const KvCache& cache) {
  // Heads of one chunk share the page they read; smaller groups only where threads would starve.
  const std::size_t n = absorbed_.size();
  const std::size_t heads = heads_.size();
  o_latent_.resize(heads * n * config_.kv_lora_rank);
  const std::size_t wanted = 2 * context_.pool.size();
  std::size_t group = 8;
  while (group > 1 && n * ((heads + group - 1) / group) < wanted) group /= 2;
  const std::size_t groups = (heads + group - 1) / group;
  context_.pool.parallel_for(n * groups, [&](std::size_t chunk, std::size_t thread) {
    const std::size_t index = chunk / groups;
    const std::size_t begin = chunk % groups * group;
    attend_row(layer, index, {begin, std::min(begin + group, heads)}, cache, thread);
  });
}

// attended[row, h] = W_uv[h] o_latent[h].
void LatentAttention::expand_values(std::size_t layer) {
  const std::size_t n = absorbed_.size();
  const std::size_t latent = config_.kv_lora_rank;
  context_.pool.parallel_for(heads_.size(), [&](std::size_t h, std::size_t thread) {
    const Head& head = heads_[h];
    const PackedMatrix& value_up = weights(head.slice, layer).value_up[head.index];
    Rows& rows = scratch_[thread].rows;
    rows.resize(n, latent);
    for (std::size_t i = 0; i < n; ++i) {
      std::copy_n(o_latent_.data() + (h * n + i) * latent, latent, rows.row(i).data());
      if (context_.rounds(value_up)) rows.round_row(context_.ops, i);
    }
    const std::size_t n_chunks = context_.chunks(rows.size()).count(value_up.rows);
    for (std::size_t chunk = 0; chunk < n_chunks; ++chunk) {
      multiply_chunk(context_, value_up, chunk, rows.view(), tiles_[thread],
                     [this, &head](std::size_t i) { return attended(head, absorbed_[i]); });
    }
  });
}

void LatentAttention::run(std::size_t layer, const CommonLayer& common, const Step& step,
                          const Rows& x, KvCache& cache, std::span<float* const> outs) {
  const std::size_t n = step.tokens.size();
  heads_.clear();
  for (std::size_t s = 0; s < slices_.size(); ++s) {  // a slice may lack whole layers
    for (std::size_t h = 0; h < weights(s, layer).key_up.size(); ++h) heads_.push_back({s, h});
  }
  project(layer, common, x);
  write_cache(layer, common, cache);
  for (AttentionSlice& slice : slices_) {
    slice.attended.resize(n, slice.weights->heads.size() * config_.v_head_dim);
  }
  if (!absorbed_.empty()) {
    absorb_queries(layer);
    attend_absorbed(layer, cache);
    expand_values(layer);
  }
  if (absorbed_.size() < n) attend_naive(layer, step, cache);
  project_out(context_, layer, config_.hidden_size, slices_, outs, tiles_);
}

}  // namespace conclave::backend
