// Rows of activations and how they meet a packed matrix. Private to backend/cpu.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace conclave::backend {

// The panels of one chunk of parallel work and the matrix rows in them.
struct ChunkRange {
  kernels::Range panels;
  std::size_t first_row;
  std::size_t n_rows;  // real rows, without the last panel's padding
};

// How the panels of matrices are divided into chunks.
struct Chunks {
  std::size_t panels;  // of one chunk; the last one of a matrix may have fewer

  std::size_t rows() const { return panels * kernels::kPanelRows; }
  std::size_t count(std::size_t matrix_rows) const { return (matrix_rows + rows() - 1) / rows(); }
  ChunkRange range(const kernels::PackedMatrix& w, std::size_t chunk) const {
    const std::size_t first = chunk * rows();
    return {{chunk * panels, std::min((chunk + 1) * panels, w.panels())},
            first,
            std::min(rows(), w.rows - first)};
  }
};

// What every operation needs: the chosen kernels, the threads, and which specification to follow.
struct CpuContext {
  const kernels::Operations& ops;
  ThreadPool& pool;
  bool exact;  // the exact path of docs/design.md 4

  // Whether activations must be rounded to int8 before they meet this matrix.
  bool rounds(const kernels::PackedMatrix& w) const {
    return !exact && kernels::is_integer(w.format);
  }
  void gemm(const kernels::PackedMatrix& w, kernels::Range panels, const kernels::Activations& x,
            float* y, std::size_t y_stride) const {
    (exact ? ops.gemm_exact : ops.gemm)(w, panels, x, y, y_stride);
  }

  // For matrices that meet `n_rows` rows of activations. A chunk is a new place in memory, where a
  // core's prefetch must find its pace: decode of Kimi K2's shapes on two cores is 5 % faster with
  // 16 panels than with 4. More threads need more chunks, and many rows a tile that stays in cache.
  Chunks chunks(std::size_t n_rows) const {
    const bool is_long = n_rows <= kFewRows && pool.size() <= kFewThreads;
    return {is_long ? std::size_t{16} : std::size_t{4}};
  }
  // Floats of a tile [rows of activations, rows of a chunk], for up to `n_rows`.
  std::size_t tile_size(std::size_t n_rows) const {
    const std::size_t few = std::min(n_rows, kFewRows);
    return std::max(few * chunks(few).rows(), n_rows * chunks(n_rows).rows());
  }

 private:
  static constexpr std::size_t kFewRows = 8;
  static constexpr std::size_t kFewThreads = 2;
};

// Rows [n, cols] as floats and, when wanted, rounded to int8. Grows and never shrinks.
class Rows {
 public:
  void resize(std::size_t n, std::size_t cols);
  std::size_t size() const { return n_; }
  std::size_t cols() const { return cols_; }
  std::span<float> row(std::size_t i) { return {x_.data() + i * cols_, cols_}; }
  std::span<const float> row(std::size_t i) const { return {x_.data() + i * cols_, cols_}; }

  // Rounds the first `width` values of row i.
  void round_row(const kernels::Operations& ops, std::size_t i, std::size_t width);
  void round_row(const kernels::Operations& ops, std::size_t i) { round_row(ops, i, cols_); }
  // Copies row `from` of `source`, rounded values included if `rounded`.
  void copy_row(std::size_t to, const Rows& source, std::size_t from, bool rounded);

  kernels::Activations view(std::size_t first, std::size_t n) const;
  kernels::Activations view() const { return view(0, n_); }

 private:
  std::size_t n_ = 0;
  std::size_t cols_ = 0;
  std::vector<float> x_;
  std::vector<std::int8_t> q_;
  std::vector<float> scale_;
  std::vector<std::int32_t> sum_;
};

// out_row(t)[r] = W[r] . x[t] for the rows r of one chunk. Through `tile`, because the kernels
// write whole panels and the padding of the last one has no place in the output.
template <class OutRow>
void multiply_chunk(const CpuContext& context, const kernels::PackedMatrix& w, std::size_t chunk,
                    const kernels::Activations& x, std::span<float> tile, OutRow out_row) {
  const Chunks chunks = context.chunks(x.tokens);
  const ChunkRange range = chunks.range(w, chunk);
  DCHECK(tile.size() >= x.tokens * chunks.rows());
  context.gemm(w, range.panels, x, tile.data(), chunks.rows());
  for (std::size_t t = 0; t < x.tokens; ++t) {
    std::copy_n(tile.data() + t * chunks.rows(), range.n_rows, out_row(t) + range.first_row);
  }
}

// y[t, r] = W[r] . x[t] for all rows, over all threads. `y` has `y_stride` floats per token.
struct Product {
  const kernels::PackedMatrix* w;
  kernels::Activations x;
  float* y;
  std::size_t y_stride;
};
// Runs several products in one parallel loop. `tiles`: per thread, context.tile_size(tokens)
// floats.
void multiply(const CpuContext& context, std::span<const Product> products,
              std::vector<std::vector<float>>& tiles);

}  // namespace conclave::backend
