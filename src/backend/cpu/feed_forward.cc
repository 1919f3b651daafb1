#include "backend/cpu/feed_forward.h"

#include <algorithm>

#include "base/check.h"

namespace conclave::backend {

FeedForward::FeedForward(const model::ModelConfig& config, const CpuContext& context,
                         const ExpertDivision* division)
    : config_(config),
      context_(context),
      division_(division),
      scratch_(context.pool.size()),
      tiles_(context.pool.size()) {}

void FeedForward::set_routing(const Routing& routing) {
  CHECK(routing.experts.size() == routing.weights.size());
  for (const ExpertId expert : routing.experts) CHECK(expert.value < config_.n_experts);
  expert_ids_.assign(routing.experts.begin(), routing.experts.end());
  expert_weights_.assign(routing.weights.begin(), routing.weights.end());
}

void FeedForward::run_dense(std::size_t layer, std::span<const SliceWeights* const> slices,
                            const Rows& x, std::span<float* const> outs) {
  n_rows_ = x.size();
  groups_.clear();
  for (std::size_t s = 0; s < slices.size(); ++s) {
    groups_.push_back({&slices[s]->layers[layer].dense, s, 0, n_rows_});
  }
  row_of_.resize(n_rows_);
  for (std::size_t row = 0; row < n_rows_; ++row) row_of_[row] = row;
  weight_of_.assign(n_rows_, 1.0f);
  run_groups(x, outs);
}

// Who computes each (row, expert) pair, row by row: what else is in the step changes nothing.
void FeedForward::divide(LayerId layer) {
  const std::size_t k = config_.experts_per_token;
  members_.assign(n_rows_ * k, kAnyMember);
  if (division_ == nullptr || !division_->has_replicas(layer)) return;
  for (std::size_t row = 0; row < n_rows_; ++row) {
    division_->assign(layer, std::span(expert_ids_).subspan(row * k, k),
                      std::span(members_).subspan(row * k, k));
  }
}

// Sorts the step's (row, expert) pairs by expert, then by who computes them; the shared experts
// first with every row.
void FeedForward::sort_rows() {
  const std::size_t k = config_.experts_per_token;
  blocks_.clear();
  row_of_.clear();
  weight_of_.clear();
  if (config_.n_shared_experts > 0) {
    blocks_.push_back({std::nullopt, kAnyMember, 0, n_rows_});
    for (std::size_t row = 0; row < n_rows_; ++row) row_of_.push_back(row);
    weight_of_.assign(n_rows_, 1.0f);
  }
  std::vector<std::size_t> order(n_rows_ * k);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [this](std::size_t a, std::size_t b) {
    return std::pair(expert_ids_[a], members_[a]) < std::pair(expert_ids_[b], members_[b]);
  });
  for (std::size_t i = 0; i < order.size(); ++i) {
    const ExpertId expert = expert_ids_[order[i]];
    const std::size_t member = members_[order[i]];
    if (i == 0 || blocks_.back().expert != expert || blocks_.back().member != member) {
      blocks_.push_back({expert, member, row_of_.size(), 0});
    }
    ++blocks_.back().n;
    row_of_.push_back(order[i] / k);
    weight_of_.push_back(expert_weights_[order[i]]);
  }
}

// Copies the inputs into the sorted order: each expert then meets its rows as one matrix.
void FeedForward::gather(const Rows& x) {
  gathered_.resize(row_of_.size(), x.cols());
  // Files may keep gate, up and the shared experts in formats of their own.
  const auto any = [this](bool wanted) {
    return std::any_of(groups_.begin(), groups_.end(), [&](const Group& g) {
      const FfnWeights& w = *g.weights;
      return w.gate.rows > 0 &&
             (context_.rounds(w.gate) == wanted || context_.rounds(w.up) == wanted);
    });
  };
  const bool rounded = any(true);
  const bool plain = any(false);
  context_.pool.parallel_for(row_of_.size(), [&](std::size_t i, std::size_t) {
    if (rounded) gathered_.copy_row(i, x, row_of_[i], true);
    if (plain) gathered_.copy_row(i, x, row_of_[i], false);
  });
}

const FfnWeights& FeedForward::weights_of(const Block& block, const SliceWeights& slice,
                                          std::size_t layer) const {
  static const FfnWeights kNothing;
  const SliceLayer& w = slice.layers[layer];
  if (!block.expert) return w.shared;
  if (block.member != kAnyMember && block.member != slice.member) return kNothing;
  return w.experts[block.expert->value];
}

void FeedForward::run_experts(std::size_t layer, std::span<const SliceWeights* const> slices,
                              const Rows& x, std::span<float* const> outs) {
  n_rows_ = x.size();
  CHECK(expert_ids_.size() == n_rows_ * config_.experts_per_token);
  divide(LayerId{static_cast<std::uint16_t>(layer)});
  sort_rows();
  groups_.clear();
  for (std::size_t s = 0; s < slices.size(); ++s) {
    for (const Block& block : blocks_) {
      groups_.push_back({&weights_of(block, *slices[s], layer), s, block.first, block.n});
    }
  }
  gather(x);
  run_groups(gathered_, outs);
}

// inner = silu(gate x) * up x, or the clamped form, for one chunk of columns of one group.
void FeedForward::inner_chunk(const Group& group, const Rows& inputs, std::size_t chunk,
                              std::size_t thread) {
  ThreadScratch& s = scratch_[thread];
  const FfnWeights& w = *group.weights;
  const Chunks chunks = context_.chunks(group.n);
  const ChunkRange range = chunks.range(w.gate, chunk);
  const kernels::Activations x = inputs.view(group.first, group.n);
  context_.gemm(w.gate, range.panels, x, s.gate.data(), chunks.rows());
  context_.gemm(w.up, range.panels, x, s.up.data(), chunks.rows());
  for (std::size_t t = 0; t < group.n; ++t) {
    const std::span<float> gate(s.gate.data() + t * chunks.rows(), range.n_rows);
    const std::span<float> up(s.up.data() + t * chunks.rows(), range.n_rows);
    float* out = inner_[group.slice].row(group.first + t).data() + range.first_row;
    if (!w.gate_bias.empty()) {
      context_.ops.axpy(1.0f, std::span(w.gate_bias).subspan(range.first_row, range.n_rows),
                        gate.data());
      context_.ops.axpy(1.0f, std::span(w.up_bias).subspan(range.first_row, range.n_rows),
                        up.data());
    }
    if (config_.swiglu_limit > 0.0f) {
      context_.ops.clamped_swiglu(gate, up, config_.swiglu_limit, out);
    } else {
      context_.ops.silu_mul(gate, up, out);
    }
  }
}

// out[row, one chunk of columns] = sum over groups of weight * (down inner), in the groups' order.
void FeedForward::down_chunk(std::span<const Group> groups, Chunks chunks, std::size_t chunk,
                             std::size_t thread, float* out) {
  float* tile = scratch_[thread].gate.data();
  const std::size_t hidden = config_.hidden_size;
  const std::size_t first = chunk * chunks.rows();
  const std::size_t n = std::min(chunks.rows(), hidden - first);
  for (std::size_t row = 0; row < n_rows_; ++row) std::fill_n(out + row * hidden + first, n, 0.0f);
  for (const Group& group : groups) {
    const kernels::PackedMatrix& down = group.weights->down;
    if (down.cols == 0) continue;
    const kernels::Activations inner = inner_[group.slice].view(group.first, group.n);
    context_.gemm(down, chunks.range(down, chunk).panels, inner, tile, chunks.rows());
    const std::span<const float> bias = group.weights->down_bias;
    for (std::size_t t = 0; t < group.n; ++t) {
      float* sum = tile + t * chunks.rows();
      if (!bias.empty()) context_.ops.axpy(1.0f, bias.subspan(first, n), sum);
      context_.ops.axpy(weight_of_[group.first + t], {sum, n},
                        out + row_of_[group.first + t] * hidden + first);
    }
  }
}

void FeedForward::run_groups(const Rows& inputs, std::span<float* const> outs) {
  const auto count = [this](const Group& group) {
    return context_.chunks(group.n).count(group.weights->gate.rows);
  };
  std::size_t rows_max = 1;
  std::size_t chunks = 0;
  std::vector<std::size_t> widths(outs.size(), 0);
  for (const Group& group : groups_) {
    rows_max = std::max(rows_max, group.n);
    chunks += count(group);
    widths[group.slice] = std::max(widths[group.slice], group.weights->gate.rows);
  }
  for (ThreadScratch& s : scratch_) {
    s.gate.resize(std::max(s.gate.size(), context_.tile_size(rows_max)));
    s.up.resize(std::max(s.up.size(), context_.tile_size(rows_max)));
  }
  inner_.resize(std::max(inner_.size(), outs.size()));
  for (std::size_t s = 0; s < outs.size(); ++s) inner_[s].resize(inputs.size(), widths[s]);
  context_.pool.parallel_for(chunks, [&](std::size_t chunk, std::size_t thread) {
    std::size_t g = 0;
    for (; chunk >= count(groups_[g]); ++g) chunk -= count(groups_[g]);
    inner_chunk(groups_[g], inputs, chunk, thread);
  });
  // Each row at its own group's width: what lies behind it is an older step's.
  context_.pool.parallel_for(groups_.size(), [&](std::size_t g, std::size_t) {
    const Group& group = groups_[g];
    const kernels::PackedMatrix& down = group.weights->down;
    if (!context_.rounds(down)) return;
    for (std::size_t t = 0; t < group.n; ++t) {
      inner_[group.slice].round_row(context_.ops, group.first + t, down.cols);
    }
  });
  const Chunks down = context_.chunks(rows_max);  // one size: all groups add into the same outputs
  const std::size_t down_chunks = down.count(config_.hidden_size);
  const std::size_t per_slice = outs.empty() ? 0 : groups_.size() / outs.size();
  context_.pool.parallel_for(down_chunks * outs.size(), [&](std::size_t i, std::size_t thread) {
    const std::size_t s = i / down_chunks;
    down_chunk(std::span(groups_).subspan(s * per_slice, per_slice), down, i % down_chunks, thread,
               outs[s]);
  });
}

}  // namespace conclave::backend
