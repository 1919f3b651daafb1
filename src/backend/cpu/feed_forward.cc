#include "backend/cpu/feed_forward.h"

#include <algorithm>

#include "base/check.h"

namespace conclave::backend {

FeedForward::FeedForward(const model::ModelConfig& config, const CpuContext& context)
    : config_(config),
      context_(context),
      scratch_(context.pool.size()),
      tiles_(context.pool.size()) {}

void FeedForward::run_dense(const FfnWeights& w, const Rows& x, float* out) {
  n_rows_ = x.size();
  groups_ = {{&w, 0, n_rows_}};
  row_of_.resize(n_rows_);
  for (std::size_t row = 0; row < n_rows_; ++row) row_of_[row] = row;
  weight_of_.assign(n_rows_, 1.0f);
  run_groups(x, out);
}

// Sorts the step's (row, expert) pairs by expert, the shared experts first with every row, and
// copies the inputs into that order: each expert then meets its rows as one matrix.
void FeedForward::gather(const LayerWeights& w, const Rows& x) {
  const std::size_t k = config_.experts_per_token;
  groups_.clear();
  row_of_.clear();
  weight_of_.clear();
  if (config_.n_shared_experts > 0) {
    groups_.push_back({&w.shared, 0, n_rows_});
    for (std::size_t row = 0; row < n_rows_; ++row) row_of_.push_back(row);
    weight_of_.assign(n_rows_, 1.0f);
  }
  std::vector<std::size_t> order(n_rows_ * k);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [this](std::size_t a, std::size_t b) {
    return expert_ids_[a] < expert_ids_[b];
  });
  for (std::size_t i = 0; i < order.size(); ++i) {
    const ExpertId expert = expert_ids_[order[i]];
    if (i == 0 || expert_ids_[order[i - 1]] != expert) {
      groups_.push_back({&w.experts[expert.value], row_of_.size(), 0});
    }
    ++groups_.back().n;
    row_of_.push_back(order[i] / k);
    weight_of_.push_back(expert_weights_[order[i]]);
  }
  gathered_.resize(row_of_.size(), x.cols());
  // Expert weights of one layer share a format; the shared experts may have another.
  const bool rounded = std::any_of(groups_.begin(), groups_.end(), [this](const Group& g) {
    return context_.rounds(g.weights->gate);
  });
  const bool plain = std::any_of(groups_.begin(), groups_.end(), [this](const Group& g) {
    return !context_.rounds(g.weights->gate);
  });
  context_.pool.parallel_for(row_of_.size(), [&](std::size_t i, std::size_t) {
    if (rounded) gathered_.copy_row(i, x, row_of_[i], true);
    if (plain) gathered_.copy_row(i, x, row_of_[i], false);
  });
}

void FeedForward::run_experts(const LayerWeights& w, const Rows& x, float* out) {
  n_rows_ = x.size();
  gather(w, x);
  run_groups(gathered_, out);
}

// inner = silu(gate x) * up x for up to 64 columns of one group.
void FeedForward::inner_chunk(const Group& group, const Rows& inputs, std::size_t chunk,
                              std::size_t thread) {
  ThreadScratch& s = scratch_[thread];
  const FfnWeights& w = *group.weights;
  const ChunkRange range = chunk_range(w.gate, chunk);
  const kernels::Activations x = inputs.view(group.first, group.n);
  context_.gemm(w.gate, range.panels, x, s.gate.data(), kChunkRows);
  context_.gemm(w.up, range.panels, x, s.up.data(), kChunkRows);
  for (std::size_t t = 0; t < group.n; ++t) {
    context_.ops.silu_mul({s.gate.data() + t * kChunkRows, range.n_rows},
                          {s.up.data() + t * kChunkRows, range.n_rows},
                          inner_.row(group.first + t).data() + range.first_row);
  }
}

// out[row, 64 columns] = sum over groups of weight * (down inner), in the groups' order.
void FeedForward::down_chunk(std::size_t chunk, std::size_t thread, float* out) {
  float* tile = scratch_[thread].gate.data();
  const std::size_t hidden = config_.hidden_size;
  const std::size_t first = chunk * kChunkRows;
  const std::size_t n = std::min(kChunkRows, hidden - first);
  for (std::size_t row = 0; row < n_rows_; ++row) std::fill_n(out + row * hidden + first, n, 0.0f);
  for (const Group& group : groups_) {
    const kernels::PackedMatrix& down = group.weights->down;
    if (down.cols == 0) continue;
    const ChunkRange range = chunk_range(down, chunk);
    const kernels::Activations inner = inner_.view(group.first, group.n);
    context_.gemm(down, range.panels, inner, tile, kChunkRows);
    for (std::size_t t = 0; t < group.n; ++t) {
      context_.ops.axpy(weight_of_[group.first + t], {tile + t * kChunkRows, n},
                        out + row_of_[group.first + t] * hidden + first);
    }
  }
}

void FeedForward::run_groups(const Rows& inputs, float* out) {
  std::size_t rows_max = 1;
  std::size_t chunks = 0;
  std::size_t width = 0;
  for (const Group& group : groups_) {
    rows_max = std::max(rows_max, group.n);
    chunks += n_chunks(group.weights->gate);
    width = std::max(width, group.weights->gate.rows);
  }
  for (ThreadScratch& s : scratch_) {
    s.gate.resize(std::max(s.gate.size(), rows_max * kChunkRows));
    s.up.resize(std::max(s.up.size(), rows_max * kChunkRows));
  }
  inner_.resize(inputs.size(), width);
  context_.pool.parallel_for(chunks, [&](std::size_t chunk, std::size_t thread) {
    std::size_t g = 0;
    for (; chunk >= n_chunks(groups_[g].weights->gate); ++g) {
      chunk -= n_chunks(groups_[g].weights->gate);
    }
    inner_chunk(groups_[g], inputs, chunk, thread);
  });
  // Each row at its own group's width: what lies behind it is an older step's.
  context_.pool.parallel_for(groups_.size(), [&](std::size_t g, std::size_t) {
    const kernels::PackedMatrix& down = groups_[g].weights->down;
    if (!context_.rounds(down)) return;
    for (std::size_t t = 0; t < groups_[g].n; ++t) {
      inner_.round_row(context_.ops, groups_[g].first + t, down.cols);
    }
  });
  const std::size_t down_chunks = (config_.hidden_size + kChunkRows - 1) / kChunkRows;
  context_.pool.parallel_for(
      down_chunks, [&](std::size_t chunk, std::size_t thread) { down_chunk(chunk, thread, out); });
}

}  // namespace conclave::backend
