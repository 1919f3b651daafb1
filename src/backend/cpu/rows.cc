#include "backend/cpu/rows.h"

#include <cstring>

namespace conclave::backend {

void Rows::resize(std::size_t n, std::size_t cols) {
  n_ = n;
  cols_ = cols;
  const auto grow = [](auto& v, std::size_t size) {
    if (v.size() < size) v.resize(size);
  };
  grow(x_, n * cols);
  grow(q_, n * kernels::padded_cols(cols));
  grow(scale_, n * kernels::groups(cols));
  grow(sum_, n * kernels::groups(cols));
}

void Rows::round_row(const kernels::Operations& ops, std::size_t i, std::size_t width) {
  const std::size_t groups = kernels::groups(cols_);
  ops.quantize_row(row(i).first(width), q_.data() + i * groups * kernels::kGroup,
                   scale_.data() + i * groups, sum_.data() + i * groups);
}

void Rows::copy_row(std::size_t to, const Rows& source, std::size_t from, bool rounded) {
  const std::size_t groups = kernels::groups(cols_);
  const std::size_t padded = groups * kernels::kGroup;
  if (!rounded) {
    std::memcpy(x_.data() + to * cols_, source.x_.data() + from * cols_, cols_ * sizeof(float));
    return;
  }
  std::memcpy(q_.data() + to * padded, source.q_.data() + from * padded, padded);
  std::memcpy(scale_.data() + to * groups, source.scale_.data() + from * groups,
              groups * sizeof(float));
  std::memcpy(sum_.data() + to * groups, source.sum_.data() + from * groups,
              groups * sizeof(std::int32_t));
}

kernels::Activations Rows::view(std::size_t first, std::size_t n) const {
  const std::size_t groups = kernels::groups(cols_);
  return {n,
          cols_,
          x_.data() + first * cols_,
          cols_,
          q_.data() + first * groups * kernels::kGroup,
          scale_.data() + first * groups,
          sum_.data() + first * groups};
}

void multiply(const CpuContext& context, std::span<const Product> products,
              std::vector<std::vector<float>>& tiles) {
  const auto count = [&context](const Product& p) {
    return context.chunks(p.x.tokens).count(p.w->rows);
  };
  std::size_t chunks = 0;
  for (const Product& p : products) chunks += count(p);
  context.pool.parallel_for(chunks, [&](std::size_t chunk, std::size_t thread) {
    std::size_t i = 0;
    for (; chunk >= count(products[i]); ++i) chunk -= count(products[i]);
    const Product& p = products[i];
    multiply_chunk(context, *p.w, chunk, p.x, tiles[thread],
                   [&p](std::size_t t) { return p.y + t * p.y_stride; });
  });
}

}  // namespace conclave::backend
