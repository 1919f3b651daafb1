// The decompressed form of latent attention, for large prefill chunks (docs/models.md 2.3): keys
// and values of one head are made from the latent cache a page at a time, never for the whole
// context.
#include <algorithm>
#include <cstring>

#include "backend/cpu/latent_attention.h"
#include "base/check.h"

namespace conclave::backend {
namespace {

using kernels::kPanelRows;
using kernels::PackedFormat;
using kernels::PackedMatrix;

std::size_t panels_of(std::size_t rows) { return (rows + kPanelRows - 1) / kPanelRows; }

// A float32 panel matrix over memory of our own.
PackedMatrix float_panels(std::span<const float> data, std::size_t rows, std::size_t cols) {
  return {PackedFormat::kF32, rows, cols, 0, std::as_bytes(data)};
}

// W_uk [nope, latent] as float panels from its packed transpose.
void unpack_keys(const PackedMatrix& transposed, std::size_t nope, std::vector<float>& panels) {
  const std::size_t latent = transposed.rows;
  panels.assign(panels_of(nope) * kPanelRows * latent, 0.0f);
  std::vector<float> row(nope);
  for (std::size_t c = 0; c < latent; ++c) {
    kernels::unpack_row(transposed, c, row);
    for (std::size_t r = 0; r < nope; ++r) {
      panels[(r / kPanelRows * latent + c) * kPanelRows + r % kPanelRows] = row[r];
    }
  }
}

void unpack_values(const PackedMatrix& w, std::vector<float>& panels) {
  panels.assign(w.panels() * kPanelRows * w.cols, 0.0f);
  std::vector<float> row(w.cols);
  for (std::size_t r = 0; r < w.rows; ++r) {
    kernels::unpack_row(w, r, row);
    for (std::size_t c = 0; c < w.cols; ++c) {
      panels[(r / kPanelRows * w.cols + c) * kPanelRows + r % kPanelRows] = row[c];
    }
  }
}

}  // namespace

void LatentAttention::attend_naive(std::size_t layer, const Step& step, const KvCache& cache) {
  for (const SequenceRows& sequence : step.sequences) {
    if (!naive(sequence)) continue;
    context_.pool.parallel_for(heads_.size(), [&](std::size_t h, std::size_t thread) {
      attend_naive_head(layer, sequence, heads_[h], cache, scratch_[thread].naive);
    });
  }
}

void LatentAttention::attend_naive_head(std::size_t layer, const SequenceRows& sequence,
                                        const Head& head, const KvCache& cache, NaiveScratch& s) {
  const SliceLayer& w = weights(head.slice, layer);
  const std::size_t n_rows = sequence.n_rows;
  const std::size_t latent = config_.kv_lora_rank;
  const std::size_t nope = config_.qk_nope_head_dim;
  const std::size_t v_dim = config_.v_head_dim;
  const std::size_t qk = config_.qk_head_dim();
  const std::size_t width = config_.kv_width();
  unpack_keys(w.key_up[head.index], nope, s.key_panels);
  unpack_values(w.value_up[head.index], s.value_panels);
  s.queries.resize(n_rows * qk);
  for (std::size_t i = 0; i < n_rows; ++i) {
    std::copy_n(query(head, sequence.first_row + i), qk, s.queries.data() + i * qk);
  }
  s.out.assign(n_rows * v_dim, 0.0f);
  s.softmax.begin(n_rows);
  s.page.resize(kPageTokens * width);
  s.keys.resize(kPageTokens * panels_of(nope) * kPanelRows);
  s.values.resize(kPageTokens * panels_of(v_dim) * kPanelRows);

  const std::size_t end = sequence.position + n_rows;
  for (std::size_t begin = 0; begin < end; begin += kPageTokens) {
    const std::size_t n = std::min(kPageTokens, end - begin);
    const float* rows =
        cache.read(layer, sequence.pages[begin / kPageTokens], 0, n, context_.ops, s.page);
    const kernels::Activations c{.tokens = n, .cols = latent, .x = rows, .x_stride = width};
    const PackedMatrix keys = float_panels(s.key_panels, nope, latent);
    const PackedMatrix values = float_panels(s.value_panels, v_dim, latent);
    context_.ops.gemm(keys, {0, keys.panels()}, c, s.keys.data(), keys.panels() * kPanelRows);
    context_.ops.gemm(values, {0, values.panels()}, c, s.values.data(),
                      values.panels() * kPanelRows);
    const std::size_t first = begin > sequence.position ? begin - sequence.position : 0;
    const NaiveBlock block{begin, n, first, n_rows - first, rows};
    naive_scores(block, s);
    naive_softmax(block, sequence.position, s);
    naive_values(block, s);
  }
  for (std::size_t i = 0; i < n_rows; ++i) {
    float* to = attended(head, sequence.first_row + i);
    for (std::size_t d = 0; d < v_dim; ++d) to[d] = s.out[i * v_dim + d] / s.softmax.sum(i);
  }
}

// scores[row, p] = q[row] . [k_nope[p] | k_rope[p]]: the block's positions are the panel rows.
void LatentAttention::naive_scores(const NaiveBlock& block, NaiveScratch& s) const {
  const std::size_t nope = config_.qk_nope_head_dim;
  const std::size_t rope = config_.qk_rope_head_dim;
  const std::size_t qk = nope + rope;
  const std::size_t key_stride = panels_of(nope) * kPanelRows;
  s.block_panels.assign(panels_of(block.n) * kPanelRows * qk, 0.0f);
  for (std::size_t p = 0; p < block.n; ++p) {
    float* panel = s.block_panels.data() + p / kPanelRows * kPanelRows * qk + p % kPanelRows;
    const float* rope_key = block.latent + p * config_.kv_width() + config_.kv_lora_rank;
    for (std::size_t d = 0; d < nope; ++d) panel[d * kPanelRows] = s.keys[p * key_stride + d];
    for (std::size_t d = 0; d < rope; ++d) panel[(nope + d) * kPanelRows] = rope_key[d];
  }
  const std::size_t stride = panels_of(block.n) * kPanelRows;
  s.scores.resize(block.n_rows * stride);
  const kernels::Activations q{.tokens = block.n_rows,
                               .cols = qk,
                               .x = s.queries.data() + block.first_row * qk,
                               .x_stride = qk};
  const PackedMatrix keys = float_panels(s.block_panels, block.n, qk);
  context_.ops.gemm(keys, {0, keys.panels()}, q, s.scores.data(), stride);
}

// Scores to probabilities against each row's running maximum; what lies in the future gets 0.
void LatentAttention::naive_softmax(const NaiveBlock& block, std::size_t position,
                                    NaiveScratch& s) const {
  const std::size_t stride = panels_of(block.n) * kPanelRows;
  const std::size_t v_dim = config_.v_head_dim;
  for (std::size_t i = 0; i < block.n_rows; ++i) {
    const std::size_t row = block.first_row + i;
    const std::size_t visible = std::min(block.n, position + row + 1 - block.begin);
    const std::span<float> p(s.scores.data() + i * stride, stride);
    const std::span<float> seen = p.first(visible);
    context_.ops.scale(rows_.softmax_scale(), seen);
    s.softmax.add(context_.ops, row, seen);
    std::fill(p.begin() + static_cast<std::ptrdiff_t>(visible), p.end(), 0.0f);
    context_.ops.scale(s.softmax.keep()[row], {s.out.data() + row * v_dim, v_dim});
  }
}

// out[row] += p[row] . v: the dimensions are the panel rows, positions the inputs.
void LatentAttention::naive_values(const NaiveBlock& block, NaiveScratch& s) const {
  const std::size_t v_dim = config_.v_head_dim;
  const std::size_t stride = panels_of(v_dim) * kPanelRows;
  s.block_panels.assign(stride * block.n, 0.0f);
  for (std::size_t p = 0; p < block.n; ++p) {
    for (std::size_t d = 0; d < v_dim; d += kPanelRows) {
      std::memcpy(s.block_panels.data() + (d / kPanelRows * block.n + p) * kPanelRows,
                  s.values.data() + p * stride + d, kPanelRows * sizeof(float));
    }
  }
  s.sums.resize(block.n_rows * stride);
  const kernels::Activations p{.tokens = block.n_rows,
                               .cols = block.n,
                               .x = s.scores.data(),
                               .x_stride = panels_of(block.n) * kPanelRows};
  const PackedMatrix values = float_panels(s.block_panels, v_dim, block.n);
  context_.ops.gemm(values, {0, values.panels()}, p, s.sums.data(), stride);
  for (std::size_t i = 0; i < block.n_rows; ++i) {
    context_.ops.axpy(1.0f, {s.sums.data() + i * stride, v_dim},
                      s.out.data() + (block.first_row + i) * v_dim);
  }
}

}  // namespace conclave::backend
