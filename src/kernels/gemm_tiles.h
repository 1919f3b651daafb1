// Products of panels and rows of activations, written once over 16 lanes. Private to this module;
// lanes.h says what `L` is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/panel_layout.h"

namespace conclave::kernels {

// ---- How one column of a panel becomes 16 floats ----------------------------------------------

template <class L>
struct F32Column {
  static constexpr std::size_t kBytes = 64;
  static typename L::F load(const std::byte* p) {
    return L::load(reinterpret_cast<const float*>(p));
  }
};

template <class L>
struct Bf16Column {
  static constexpr std::size_t kBytes = 32;
  static typename L::F load(const std::byte* p) { return L::load_bf16(p); }
};

template <class L>
struct F16Column {
  static constexpr std::size_t kBytes = 32;
  static typename L::F load(const std::byte* p) { return L::load_f16(p); }
};

// ---- Plain float panels: acc = fma(w, x, acc) ---------------------------------------------------

// P panels x T tokens at once. `panel` points to the first panel, the next ones follow it.
template <class L, class Column, std::size_t P, std::size_t T>
// NOLINTNEXTLINE(readability-function-size): what a kernel keeps in registers
void gemm_float_tile(const std::byte* panel, std::size_t panel_bytes, std::size_t cols,
                     const Activations& x, std::size_t token, float* y, std::size_t y_stride) {
  typename L::F acc[P][T];
  for (auto& row : acc) {
    for (auto& a : row) a = L::zero();
  }
  const float* in[T];
  for (std::size_t t = 0; t < T; ++t) in[t] = x.x + (token + t) * x.x_stride;
  for (std::size_t c = 0; c < cols; ++c) {
    for (std::size_t p = 0; p < P; ++p) {
      const std::byte* column = panel + p * panel_bytes + c * Column::kBytes;
      if (c * Column::kBytes % 64 == 0) L::prefetch(column + L::kPrefetchBytes);
      const auto w = Column::load(column);
      for (std::size_t t = 0; t < T; ++t) acc[p][t] = L::fma(w, L::broadcast(in[t][c]), acc[p][t]);
    }
  }
  for (std::size_t t = 0; t < T; ++t) {
    for (std::size_t p = 0; p < P; ++p) L::store(y + t * y_stride + p * kPanelRows, acc[p][t]);
  }
}

// ---- FP8: sum = fma(w, x, sum) over a block, acc = fma(sum, scale, acc)

// Exact: w = e4m3 * scale in float32, acc = fma(w, x, acc).
template <class L, bool kExact, std::size_t P, std::size_t T>
// NOLINTNEXTLINE(readability-function-size): what a kernel keeps in registers
void gemm_fp8_tile(const std::byte* panel, std::size_t panel_bytes, std::size_t cols,
                   std::size_t block_offset, const Activations& x, std::size_t token, float* y,
                   std::size_t y_stride) {
  typename L::F acc[P][T];
  for (auto& row : acc) {
    for (auto& a : row) a = L::zero();
  }
  const float* in[T];
  for (std::size_t t = 0; t < T; ++t) in[t] = x.x + (token + t) * x.x_stride;
  std::size_t offset = 0;  // of the block in each panel
  for (std::size_t c = 0; c < cols;) {
    const std::size_t end = fp8_block_end(c, block_offset, cols);
    for (std::size_t p = 0; p < P; ++p) {
      const std::byte* block = panel + p * panel_bytes + offset;
      const auto scale = L::load(reinterpret_cast<const float*>(block));
      typename L::F sum[T];
      for (std::size_t t = 0; t < T; ++t) sum[t] = kExact ? acc[p][t] : L::zero();
      for (std::size_t k = c; k < end; ++k) {
        const std::byte* column = block + kFp8ScaleBytes + (k - c) * kPanelRows;
        if (k % 4 == 0) L::prefetch(column + L::kPrefetchBytes);
        auto w = L::load_e4m3(column);
        if constexpr (kExact) w = L::mul(w, scale);
        for (std::size_t t = 0; t < T; ++t) sum[t] = L::fma(w, L::broadcast(in[t][k]), sum[t]);
      }
      for (std::size_t t = 0; t < T; ++t) {
        acc[p][t] = kExact ? sum[t] : L::fma(sum[t], scale, acc[p][t]);
      }
    }
    offset += kFp8ScaleBytes + (end - c) * kPanelRows;
    c = end;
  }
  for (std::size_t t = 0; t < T; ++t) {
    for (std::size_t p = 0; p < P; ++p) L::store(y + t * y_stride + p * kPanelRows, acc[p][t]);
  }
}

// ---- Integers, fast: int32 dot per group of 32 inputs

// What the integer formats differ in: how 4 inputs x 16 rows become bytes for L's dot product.
template <class L>
struct Int8Group {
  static constexpr std::size_t kBytes = kInt8GroupBytes;
  static constexpr std::int32_t kOffset = L::kInt8Offset;  // stored minus true value
  typename L::B words[8];
  explicit Int8Group(const std::byte* p) {
    for (std::size_t i = 0; i < 8; ++i) words[i] = L::load_bytes(p + i * 64);
  }
  // Plus the dot product with 32 inputs. One chain, so that cache lines are met in their order.
  typename L::I dot(typename L::I acc, const std::int8_t* a) const {
    for (std::size_t i = 0; i < 8; ++i) acc = L::dot_int8(acc, words[i], a + 4 * i);
    return acc;
  }
};

template <class L>
struct Int4Group {
  static constexpr std::size_t kBytes = kInt4GroupBytes;
  static constexpr std::int32_t kOffset = 8;
  typename L::B words[8];
  explicit Int4Group(const std::byte* p) {
    for (std::size_t i = 0; i < 4; ++i) {
      const auto both = L::load_bytes(p + i * 64);
      words[i] = L::low_nibbles(both);
      words[i + 4] = L::high_nibbles(both);
    }
  }
  // Two chains, half the latency; both halves of a byte come from one cache line.
  typename L::I dot(typename L::I acc, const std::int8_t* a) const {
    auto high = L::broadcast_int(0);
    for (std::size_t i = 0; i < 4; ++i) {
      acc = L::dot_uint4(acc, words[i], a + 4 * i);
      high = L::dot_uint4(high, words[i + 4], a + 4 * (i + 4));
    }
    return L::add_high_nibbles(acc, high);
  }
};

template <class L>
struct Mxfp4Group {
  static constexpr std::size_t kBytes = kInt4GroupBytes;
  static constexpr std::int32_t kOffset = kMxfp4Offset;
  typename L::B words[8];
  explicit Mxfp4Group(const std::byte* p) {
    for (std::size_t i = 0; i < 4; ++i) {
      const auto both = L::load_bytes(p + i * 64);
      words[i] = L::look_up(kMxfp4Table, L::low_nibbles(both));
      words[i + 4] = L::look_up(kMxfp4Table, L::upper_nibbles(both));
    }
  }
  typename L::I dot(typename L::I acc, const std::int8_t* a) const {
    for (std::size_t i = 0; i < 8; ++i) acc = L::dot_uint4(acc, words[i], a + 4 * i);
    return acc;
  }
};

// The affine formats, whose bytes count as they are stored.
template <class L>
struct Affine4Group : Int4Group<L> {
  using Int4Group<L>::Int4Group;
  typename L::I unsigned_dot(std::int32_t, const std::int8_t* a) const {
    return this->dot(L::broadcast_int(0), a);
  }
};

// L's dot product takes 128 off each byte itself, or leaves it to its caller (L::kInt8Offset).
template <class L>
struct Affine8Group : Int8Group<L> {
  static constexpr std::int32_t kTakenOff = 128 - L::kInt8Offset;
  using Int8Group<L>::Int8Group;
  typename L::I unsigned_dot(std::int32_t sum, const std::int8_t* a) const {
    return this->dot(L::broadcast_int(kTakenOff * sum), a);
  }
  typename L::I low_dot(std::int32_t sum, const std::int8_t* a) const {
    return half_dot(0, sum, a);
  }
  typename L::I high_dot(std::int32_t sum, const std::int8_t* a) const {
    return half_dot(4, sum, a);
  }

 private:
  typename L::I half_dot(std::size_t begin, std::int32_t sum, const std::int8_t* a) const {
    auto acc = L::broadcast_int((kTakenOff - kHalvesOffset) * sum);
    for (std::size_t i = begin; i < begin + 4; ++i) {
      acc = L::dot_int8(acc, this->words[i], a + 4 * i);
    }
    return acc;
  }
};

template <class L, class Group, std::size_t P, std::size_t T>
// NOLINTNEXTLINE(readability-function-size): what a kernel keeps in registers
void gemm_int_tile(const std::byte* panel, std::size_t panel_bytes, std::size_t cols,
                   const Activations& x, std::size_t token, float* y, std::size_t y_stride) {
  const std::size_t n_groups = groups(cols);
  const std::size_t stride = groups(x.cols);  // groups from one token to the next
  typename L::F acc[P][T];
  for (auto& row : acc) {
    for (auto& a : row) a = L::zero();
  }
  const std::int8_t* q = x.q + token * stride * kGroup;
  const float* s_a = x.scale + token * stride;
  const std::int32_t* sum = x.sum + token * stride;
  for (std::size_t g = 0; g < n_groups; ++g) {
    const IntGroupPlace place = int_group_place(g, Group::kBytes);
    for (std::size_t p = 0; p < P; ++p) {
      const std::byte* base = panel + p * panel_bytes;
      for (std::size_t line = 0; line < Group::kBytes + 32; line += 64) {
        L::prefetch(base + place.weights + L::kPrefetchBytes + line);
      }
      const Group w(base + place.weights);
      const auto s_w = L::load_bf16(base + place.scales);
      for (std::size_t t = 0; t < T; ++t) {
        const std::int8_t* a = q + (t * stride + g) * kGroup;
        const auto dot = w.dot(L::broadcast_int(-Group::kOffset * sum[t * stride + g]), a);
        const auto s = L::mul(s_w, L::broadcast(s_a[t * stride + g]));
        acc[p][t] = L::fma(L::to_float(dot), s, acc[p][t]);
      }
    }
  }
  for (std::size_t t = 0; t < T; ++t) {
    for (std::size_t p = 0; p < P; ++p) L::store(y + t * y_stride + p * kPanelRows, acc[p][t]);
  }
}

// Whole numbers with a scale and an offset, or with two scales, in float32.
template <class L, class Group, bool kHalves, std::size_t P, std::size_t T>
// NOLINTNEXTLINE(readability-function-size): what a kernel keeps in registers
void gemm_affine_tile(const std::byte* panel, std::size_t panel_bytes, std::size_t cols,
                      const Activations& x, std::size_t token, float* y, std::size_t y_stride) {
  const std::size_t n_groups = groups(cols);
  const std::size_t stride = groups(x.cols);  // groups from one token to the next
  typename L::F acc[P][T];
  for (auto& row : acc) {
    for (auto& a : row) a = L::zero();
  }
  const std::int8_t* q = x.q + token * stride * kGroup;
  const float* s_a = x.scale + token * stride;
  const std::int32_t* sum = x.sum + token * stride;
  for (std::size_t g = 0; g < n_groups; ++g) {
    const IntGroupPlace place = affine_group_place(g, Group::kBytes);
    std::int32_t half[T] = {};  // sums of the first 16 inputs
    if constexpr (kHalves) {
      for (std::size_t t = 0; t < T; ++t) {
        for (std::size_t k = 0; k < kGroup / 2; ++k) half[t] += q[(t * stride + g) * kGroup + k];
      }
    }
    for (std::size_t p = 0; p < P; ++p) {
      const std::byte* base = panel + p * panel_bytes;
      for (std::size_t line = 0; line < Group::kBytes + kAffineScaleBytes; line += 64) {
        L::prefetch(base + place.scales + L::kPrefetchBytes + line);
      }
      const Group w(base + place.weights);
      const auto first = L::load(reinterpret_cast<const float*>(base + place.scales));
      const auto second = L::load(reinterpret_cast<const float*>(base + place.scales + 64));
      for (std::size_t t = 0; t < T; ++t) {
        const std::int8_t* a = q + (t * stride + g) * kGroup;
        const std::int32_t total = sum[t * stride + g];
        const auto scale = L::broadcast(s_a[t * stride + g]);
        auto& to = acc[p][t];
        if constexpr (kHalves) {
          const auto low = w.low_dot(half[t], a);
          const auto high = w.high_dot(total - half[t], a);
          to = L::fma(L::to_float(low), L::mul(first, scale), to);
          to = L::fma(L::to_float(high), L::mul(second, scale), to);
        } else {
          const auto dot = w.unsigned_dot(total, a);
          to = L::fma(L::to_float(dot), L::mul(first, scale), to);
          to = L::fma(L::to_float(L::broadcast_int(total)), L::mul(second, scale), to);
        }
      }
    }
  }
  for (std::size_t t = 0; t < T; ++t) {
    for (std::size_t p = 0; p < P; ++p) L::store(y + t * y_stride + p * kPanelRows, acc[p][t]);
  }
}

// ---- Integers, exact: w = q * scale in float32 (exact), acc = fma(w, x, acc)

// The scales of a group of 16 rows, and what they make of a column of its whole numbers.
template <class L, PackedFormat kFormat>
struct GroupScales {
  typename L::F first, second;
  explicit GroupScales(const std::byte* p) {
    if constexpr (is_affine(kFormat)) {
      first = L::load(reinterpret_cast<const float*>(p));
      second = L::load(reinterpret_cast<const float*>(p + 64));
    } else {
      first = second = L::load_bf16(p);
    }
  }
  typename L::F apply(typename L::F column, std::size_t k) const {
    if constexpr (!is_affine(kFormat)) return L::mul(column, first);
    if constexpr (kFormat == PackedFormat::kInt8Halves) {
      return L::mul(column, k < kGroup / 2 ? first : second);
    }
    return L::fma(column, first, second);
  }
};

template <class L, PackedFormat kFormat, std::size_t P, std::size_t T>
// NOLINTNEXTLINE(readability-function-size): what a kernel keeps in registers
void gemm_int_exact_tile(const std::byte* panel, std::size_t panel_bytes, std::size_t cols,
                         const Activations& x, std::size_t token, float* y, std::size_t y_stride) {
  constexpr std::size_t kBytes = int_group_bytes(kFormat);
  const std::size_t n_groups = groups(cols);
  typename L::F acc[P][T];
  for (auto& row : acc) {
    for (auto& a : row) a = L::zero();
  }
  const float* in[T];
  for (std::size_t t = 0; t < T; ++t) in[t] = x.x + (token + t) * x.x_stride;
  for (std::size_t g = 0; g < n_groups; ++g) {
    const IntGroupPlace place =
        is_affine(kFormat) ? affine_group_place(g, kBytes) : int_group_place(g, kBytes);
    for (std::size_t p = 0; p < P; ++p) {
      const std::byte* base = panel + p * panel_bytes;
      const GroupScales<L, kFormat> scales(base + place.scales);
      const std::size_t n = cols - g * kGroup < kGroup ? cols - g * kGroup : kGroup;
      for (std::size_t k = 0; k < n; ++k) {
        float column[kPanelRows];
        int_group_column(base + place.weights, kFormat, k, column);
        const auto w = scales.apply(L::load(column), k);
        for (std::size_t t = 0; t < T; ++t) {
          acc[p][t] = L::fma(w, L::broadcast(in[t][g * kGroup + k]), acc[p][t]);
        }
      }
    }
  }
  for (std::size_t t = 0; t < T; ++t) {
    for (std::size_t p = 0; p < P; ++p) L::store(y + t * y_stride + p * kPanelRows, acc[p][t]);
  }
}

// ---- One tile by format

template <class L, bool kExact, PackedFormat kFormat, std::size_t P, std::size_t T>
// NOLINTNEXTLINE(readability-function-size): what a kernel keeps in registers
void gemm_int(const std::byte* panel, std::size_t panel_bytes, std::size_t cols,
              const Activations& x, std::size_t token, float* y, std::size_t y_stride) {
  if constexpr (kExact) {
    gemm_int_exact_tile<L, kFormat, P, T>(panel, panel_bytes, cols, x, token, y, y_stride);
  } else if constexpr (kFormat == PackedFormat::kInt8) {
    gemm_int_tile<L, Int8Group<L>, P, T>(panel, panel_bytes, cols, x, token, y, y_stride);
  } else if constexpr (kFormat == PackedFormat::kInt4) {
    gemm_int_tile<L, Int4Group<L>, P, T>(panel, panel_bytes, cols, x, token, y, y_stride);
  } else if constexpr (kFormat == PackedFormat::kMxfp4) {
    gemm_int_tile<L, Mxfp4Group<L>, P, T>(panel, panel_bytes, cols, x, token, y, y_stride);
  } else if constexpr (kFormat == PackedFormat::kInt4Affine) {
    gemm_affine_tile<L, Affine4Group<L>, false, P, T>(panel, panel_bytes, cols, x, token, y,
                                                      y_stride);
  } else {
    gemm_affine_tile<L, Affine8Group<L>, kFormat == PackedFormat::kInt8Halves, P, T>(
        panel, panel_bytes, cols, x, token, y, y_stride);
  }
}

template <class L, bool kExact, std::size_t P, std::size_t T>
void gemm_tile(const PackedMatrix& w, std::size_t panel, const Activations& x, std::size_t token,
               float* y, std::size_t y_stride) {
  const std::size_t bytes = panel_bytes(w.format, w.cols, w.block_offset);
  const std::byte* base = w.data.data() + panel * bytes;
  switch (w.format) {
    case PackedFormat::kF32:
      return gemm_float_tile<L, F32Column<L>, P, T>(base, bytes, w.cols, x, token, y, y_stride);
    case PackedFormat::kF16:
      return gemm_float_tile<L, F16Column<L>, P, T>(base, bytes, w.cols, x, token, y, y_stride);
    case PackedFormat::kBF16:
      return gemm_float_tile<L, Bf16Column<L>, P, T>(base, bytes, w.cols, x, token, y, y_stride);
    case PackedFormat::kFp8:
      return gemm_fp8_tile<L, kExact, P, T>(base, bytes, w.cols, w.block_offset, x, token, y,
                                            y_stride);
    case PackedFormat::kInt8:
      return gemm_int<L, kExact, PackedFormat::kInt8, P, T>(base, bytes, w.cols, x, token, y,
                                                            y_stride);
    case PackedFormat::kInt4:
      return gemm_int<L, kExact, PackedFormat::kInt4, P, T>(base, bytes, w.cols, x, token, y,
                                                            y_stride);
    case PackedFormat::kMxfp4:
      return gemm_int<L, kExact, PackedFormat::kMxfp4, P, T>(base, bytes, w.cols, x, token, y,
                                                             y_stride);
    case PackedFormat::kInt4Affine:
      return gemm_int<L, kExact, PackedFormat::kInt4Affine, P, T>(base, bytes, w.cols, x, token, y,
                                                                  y_stride);
    case PackedFormat::kInt8Affine:
      return gemm_int<L, kExact, PackedFormat::kInt8Affine, P, T>(base, bytes, w.cols, x, token, y,
                                                                  y_stride);
    case PackedFormat::kInt8Halves:
      return gemm_int<L, kExact, PackedFormat::kInt8Halves, P, T>(base, bytes, w.cols, x, token, y,
                                                                  y_stride);
  }
}

// All tokens of one group of P panels, T at a time while they last, then half as many. Tiles only
// change which sums run side by side, never the order inside one.
template <class L, bool kExact, std::size_t P, std::size_t T>
void gemm_panels(const PackedMatrix& w, std::size_t panel, const Activations& x, std::size_t token,
                 float* y, std::size_t y_stride) {
  for (; token + T <= x.tokens; token += T) {
    gemm_tile<L, kExact, P, T>(w, panel, x, token, y + token * y_stride, y_stride);
  }
  if constexpr (T > 1) gemm_panels<L, kExact, P, T / 2>(w, panel, x, token, y, y_stride);
}

template <class L, bool kExact>
void gemm(const PackedMatrix& w, Range panels, const Activations& x, float* y,
          std::size_t y_stride) {
  // One token: as many read streams as this core likes. Many tokens: one panel, many tokens.
  std::size_t panel = panels.begin;
  if (L::kStreams > 1 && x.tokens < L::kTokensAtOnce) {
    for (; panel + L::kStreams <= panels.end; panel += L::kStreams) {
      gemm_panels<L, kExact, L::kStreams, 1>(w, panel, x, 0,
                                             y + (panel - panels.begin) * kPanelRows, y_stride);
    }
  }
  for (; panel < panels.end; ++panel) {
    gemm_panels<L, kExact, 1, L::kTokensAtOnce>(w, panel, x, 0,
                                                y + (panel - panels.begin) * kPanelRows, y_stride);
  }
}

}  // namespace conclave::kernels
