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

// What every operation needs: the chosen kernels, the threads, and which specification to follow.
struct CpuContext {
  const kernels::Operations& ops;
  ThreadPool& pool;
  bool exact;  // the exact path of docs/design.md 4

  // Whether activations must be rounded to int8 before they meet this matrix.
  bool rounds(const kernels::PackedMatrix& w) const {
    return !exact &&
           (w.format == kernels::PackedFormat::kInt8 || w.format == kernels::PackedFormat::kInt4);
  }
  void gemm(const kernels::PackedMatrix& w, kernels::Range panels, const kernels::Activations& x,
            float* y, std::size_t y_stride) const {
    (exact ? ops.gemm_exact : ops.gemm)(w, panels, x, y, y_stride);
  }
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

// Panels one chunk of parallel work covers: four read streams on one core.
inline constexpr std::size_t kChunkPanels = 4;
inline constexpr std::size_t kChunkRows = kChunkPanels * kernels::kPanelRows;

// The panels of chunk `chunk` and the matrix rows in them.
struct ChunkRange {
  kernels::Range panels;
  std::size_t first_row;
  std::size_t n_rows;  // real rows, without the last panel's padding
};
inline std::size_t n_chunks(const kernels::PackedMatrix& w) {
  return (w.panels() + kChunkPanels - 1) / kChunkPanels;
}
inline ChunkRange chunk_range(const kernels::PackedMatrix& w, std::size_t chunk) {
  const std::size_t begin = chunk * kChunkPanels;
  const std::size_t end = begin + kChunkPanels < w.panels() ? begin + kChunkPanels : w.panels();
  const std::size_t first = begin * kernels::kPanelRows;
  const std::size_t last = end * kernels::kPanelRows < w.rows ? end * kernels::kPanelRows : w.rows;
  return {{begin, end}, first, last - first};
}

// out_row(t)[r] = W[r] . x[t] for the rows r of one chunk. Through `tile` [tokens, kChunkRows],
// because the kernels write whole panels and the padding of the last one has no place in the
// output.
template <class OutRow>
void multiply_chunk(const CpuContext& context, const kernels::PackedMatrix& w, std::size_t chunk,
                    const kernels::Activations& x, std::span<float> tile, OutRow out_row) {
  const ChunkRange range = chunk_range(w, chunk);
  DCHECK(tile.size() >= x.tokens * kChunkRows);
  context.gemm(w, range.panels, x, tile.data(), kChunkRows);
  for (std::size_t t = 0; t < x.tokens; ++t) {
    std::copy_n(tile.data() + t * kChunkRows, range.n_rows, out_row(t) + range.first_row);
  }
}

// y[t, r] = W[r] . x[t] for all rows, over all threads. `y` has `y_stride` floats per token.
struct Product {
  const kernels::PackedMatrix* w;
  kernels::Activations x;
  float* y;
  std::size_t y_stride;
};
// Runs several products in one parallel loop. `tiles`: per thread, tokens x kChunkRows floats.
void multiply(const CpuContext& context, std::span<const Product> products,
              std::vector<std::vector<float>>& tiles);

}  // namespace conclave::backend
