#include "backend/cpu/grouped_attention.h"

#include <algorithm>

#include "base/check.h"

namespace conclave::backend {
namespace {

// Rows that share a read of keys: enough that it costs little, few enough for the scores of all
// their heads to stay in cache.
constexpr std::size_t kBlockRows = 8;

}  // namespace

GroupedAttention::GroupedAttention(const model::ModelConfig& config, const CpuContext& context)
    : config_(config),
      context_(context),
      head_dim_(config.qk_head_dim()),
      rows_(config),
      tiles_(context.pool.size()),
      scratch_(context.pool.size()) {
  CHECK(config.v_head_dim == head_dim_);
}

void GroupedAttention::begin_step(const Step& step, std::span<const SliceWeights* const> slices) {
  slices_.resize(slices.size());
  for (std::size_t s = 0; s < slices.size(); ++s) slices_[s].weights = slices[s];
  rows_.begin(step);
  blocks_.clear();
  for (const SequenceRows& sequence : step.sequences) {
    for (std::size_t i = 0; i < sequence.n_rows; i += kBlockRows) {
      blocks_.push_back({sequence.first_row + i, std::min(kBlockRows, sequence.n_rows - i)});
    }
  }
  for (auto& tile : tiles_) tile.resize(context_.tile_size(step.tokens.size()));
}

void GroupedAttention::find_groups(std::size_t layer) {
  const std::size_t per_group = config_.n_heads / config_.n_kv_heads;
  groups_.clear();
  for (std::size_t s = 0; s < slices_.size(); ++s) {
    if (weights(s, layer).q.rows == 0) continue;  // no heads, or a slice without this layer
    const kernels::Range heads = slices_[s].weights->heads;
    for (std::size_t head = heads.begin; head < heads.end;) {
      const std::size_t end = std::min(heads.end, (head / per_group + 1) * per_group);
      groups_.push_back({s, head - heads.begin, end - head, head / per_group});
      head = end;
    }
  }
}

void GroupedAttention::project(std::size_t layer, const CommonLayer& common, const Rows& x) {
  k_.resize(x.size() * common.k.rows);
  v_.resize(x.size() * common.v.rows);
  products_.assign({{&common.k, x.view(), k_.data(), common.k.rows},
                    {&common.v, x.view(), v_.data(), common.v.rows}});
  for (std::size_t s = 0; s < slices_.size(); ++s) {
    const kernels::PackedMatrix& q = weights(s, layer).q;
    slices_[s].q.resize(x.size() * q.rows);
    products_.push_back({&q, x.view(), slices_[s].q.data(), q.rows});
  }
  multiply(context_, products_, tiles_);
}

void GroupedAttention::finish_head(std::size_t row, std::span<float> head,
                                   std::span<const float> bias, std::span<const float> norm) const {
  if (!bias.empty()) context_.ops.axpy(1.0f, bias, head.data());
  if (!norm.empty()) context_.ops.rms_norm(head, norm, config_.rms_norm_eps, head.data());
  rows_.rotate(row, head.first(config_.qk_rope_head_dim));
}

void GroupedAttention::finish_queries(std::size_t row, const CommonLayer& common) {
  const std::span<const float> bias = common.q_bias;
  for (const Group& group : groups_) {
    AttentionSlice& slice = slices_[group.slice];
    const kernels::Range heads = slice.weights->heads;
    for (std::size_t h = group.first; h < group.first + group.n; ++h) {
      const std::span<float> query(slice.q.data() + (row * heads.size() + h) * head_dim_,
                                   head_dim_);
      const std::size_t begin = (heads.begin + h) * head_dim_;
      finish_head(row, query, bias.empty() ? bias : bias.subspan(begin, head_dim_), common.q_norm);
    }
  }
}

void GroupedAttention::write_cache(std::size_t layer, const CommonLayer& common, KvCache& cache) {
  const std::span<const float> k_bias = common.k_bias;
  context_.pool.parallel_for(rows_.size(), [&](std::size_t row, std::size_t) {
    const std::size_t position = rows_.position(row);
    const PageIndex page = rows_.sequence(row).pages[position / kPageTokens];
    const std::size_t width = config_.n_kv_heads * head_dim_;
    const std::span<float> values(v_.data() + row * width, width);
    if (!common.v_bias.empty()) context_.ops.axpy(1.0f, common.v_bias, values.data());
    for (std::size_t h = 0; h < config_.n_kv_heads; ++h) {
      const std::size_t begin = h * head_dim_;
      const std::span<float> key(k_.data() + row * width + begin, head_dim_);
      finish_head(row, key, k_bias.empty() ? k_bias : k_bias.subspan(begin, head_dim_),
                  common.k_norm);
      cache.write(layer, page, 2 * h, position % kPageTokens, key);
      cache.write(layer, page, 2 * h + 1, position % kPageTokens, values.subspan(begin, head_dim_));
    }
    finish_queries(row, common);
  });
}

kernels::Range GroupedAttention::seen(std::size_t row) const {
  const std::size_t end = rows_.position(row) + 1;
  return {end > window_ ? end - window_ : 0, end};
}

void GroupedAttention::softmax_page(const RowBlock& block, const Group& group, kernels::Range page,
                                    ThreadScratch& s) const {
  const std::size_t count = page.size();
  for (std::size_t i = 0; i < block.n; ++i) {
    const kernels::Range all = seen(block.first + i);
    const std::size_t begin = std::clamp(all.begin, page.begin, page.end) - page.begin;
    const std::size_t end = std::clamp(all.end, page.begin, page.end) - page.begin;
    for (std::size_t h = i * group.n; h < (i + 1) * group.n; ++h) {
      const std::span<float> scores(s.scores.data() + h * count, count);
      if (begin < end) {
        s.softmax.add(context_.ops, h, scores.subspan(begin, end - begin));
      } else {
        s.softmax.skip(h);
      }
      std::ranges::fill(scores.first(begin), 0.0f);
      std::ranges::fill(scores.subspan(end), 0.0f);
    }
  }
}

void GroupedAttention::begin_softmax(const RowBlock& block, const Group& group,
                                     std::span<const float> sinks, RunningSoftmax& softmax) const {
  softmax.begin(block.n * group.n);
  if (sinks.empty()) return;
  const std::size_t first = slices_[group.slice].weights->heads.begin + group.first;
  for (std::size_t h = 0; h < block.n * group.n; ++h) {
    softmax.set_sink(h, sinks[first + h % group.n]);
  }
}

void GroupedAttention::attend(std::size_t layer, const RowBlock& block, const Group& group,
                              const CommonLayer& common, const KvCache& cache, ThreadScratch& s) {
  const SequenceRows& sequence = rows_.sequence(block.first);
  const std::size_t n = block.n * group.n;
  AttentionSlice& slice = slices_[group.slice];
  const std::size_t stride = slice.weights->heads.size() * head_dim_;
  s.keys.resize(kPageTokens * head_dim_);
  s.values.resize(kPageTokens * head_dim_);
  s.scores.resize(n * kPageTokens);
  s.queries.resize(n * head_dim_);
  s.out.assign(n * head_dim_, 0.0f);
  begin_softmax(block, group, common.sinks, s.softmax);
  for (std::size_t i = 0; i < block.n; ++i) {
    std::copy_n(slice.q.data() + (block.first + i) * stride + group.first * head_dim_,
                group.n * head_dim_, s.queries.data() + i * group.n * head_dim_);
  }
  const std::size_t end = seen(block.first + block.n - 1).end;
  std::size_t begin = seen(block.first).begin / kPageTokens * kPageTokens;
  for (; begin < end; begin += kPageTokens) {
    const std::size_t count = std::min(kPageTokens, end - begin);
    const PageIndex page = sequence.pages[begin / kPageTokens];
    const float* keys = cache.read(layer, page, 2 * group.kv_head, count, context_.ops, s.keys);
    context_.ops.cache_scores({keys, count, head_dim_, head_dim_}, s.queries.data(), head_dim_, n,
                              rows_.softmax_scale(), s.scores.data());
    softmax_page(block, group, {begin, begin + count}, s);
    const float* values =
        cache.read(layer, page, 2 * group.kv_head + 1, count, context_.ops, s.values);
    context_.ops.cache_values({values, count, head_dim_, head_dim_}, s.scores.data(),
                              s.softmax.keep(), n, s.out.data(), head_dim_);
  }
  for (std::size_t h = 0; h < n; ++h) {
    const std::span<float> out(s.out.data() + h * head_dim_, head_dim_);
    context_.ops.scale(1.0f / s.softmax.sum(h), out);
    std::ranges::copy(out, slice.attended.row(block.first + h / group.n).data() +
                               (group.first + h % group.n) * head_dim_);
  }
}

void GroupedAttention::run(std::size_t layer, const CommonLayer& common, const Step& step,
                           const Rows& x, KvCache& cache, std::span<float* const> outs) {
  window_ = config_.window(LayerId{static_cast<std::uint16_t>(layer)});
  find_groups(layer);
  project(layer, common, x);
  write_cache(layer, common, cache);
  for (AttentionSlice& slice : slices_) {
    slice.attended.resize(step.tokens.size(), slice.weights->heads.size() * head_dim_);
  }
  context_.pool.parallel_for(
      blocks_.size() * groups_.size(), [&](std::size_t item, std::size_t thread) {
        attend(layer, blocks_[item / groups_.size()], groups_[item % groups_.size()], common, cache,
               scratch_[thread]);
      });
  project_out(context_, layer, config_.hidden_size, slices_, outs, tiles_);
}

}  // namespace conclave::backend
