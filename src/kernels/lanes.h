// Every kernel, written once over 16 lanes. Private to this module.
//
// `L` is one of ScalarLanes, Avx2Lanes, Avx512Lanes, NeonLanes. Each provides, on 16 float lanes
// `L::F` and 16 int32 lanes `L::I`, the same IEEE operations; so every instruction set gives the
// bits of the scalar code by construction. Lanes are rows of a panel or neighbours of a vector;
// where lanes must be summed the tree is prescribed: i with i+8, then +4, +2, +1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/gemm_tiles.h"
#include "kernels/kernels.h"

namespace conclave::kernels {

// For cores that read one sequential stream best, into L2 and not far ahead. Gemms of one row on
// two Zen 5 cores as share of a plain read: with AVX-512 0.70 to 0.91 with four streams, 0.95
// to 1.07 so; with AVX2 0.79 to 0.95 with two, 0.90 to 0.99 so. Taken for all of AMD's, though
// unmeasured before Zen 5.
template <class Lanes>
struct Sequential : Lanes {
  static constexpr std::size_t kStreams = 1;
  static constexpr std::size_t kPrefetchBytes = 512;
  static void prefetch(const std::byte* p) { __builtin_prefetch(p, 0, 2); }  // into L2
};

// ---- Vectors ------------------------------------------------------------------------------------

template <class L>
typename L::F load_partial(const float* x, std::size_t n) {
  float lanes[kPanelRows] = {};
  std::memcpy(lanes, x, n * sizeof(float));
  return L::load(lanes);
}

template <class L>
void store_partial(float* y, std::size_t n, typename L::F value) {
  float lanes[kPanelRows];
  L::store(lanes, value);
  std::memcpy(y, lanes, n * sizeof(float));
}

// y[i] = f(loaded lanes of each input) for vectors of any length.
template <class L, class Function>
void map1(const float* a, std::size_t n, float* y, Function f) {
  std::size_t i = 0;
  for (; i + kPanelRows <= n; i += kPanelRows) L::store(y + i, f(L::load(a + i)));
  if (i < n) store_partial<L>(y + i, n - i, f(load_partial<L>(a + i, n - i)));
}

template <class L, class Function>
void map2(const float* a, const float* b, std::size_t n, float* y, Function f) {
  std::size_t i = 0;
  for (; i + kPanelRows <= n; i += kPanelRows) L::store(y + i, f(L::load(a + i), L::load(b + i)));
  if (i < n) {
    store_partial<L>(y + i, n - i, f(load_partial<L>(a + i, n - i), load_partial<L>(b + i, n - i)));
  }
}

template <class L>
float sum_of_squares(std::span<const float> x) {
  auto acc = L::zero();
  std::size_t i = 0;
  for (; i + kPanelRows <= x.size(); i += kPanelRows) {
    const auto v = L::load(x.data() + i);
    acc = L::fma(v, v, acc);
  }
  if (i < x.size()) {
    const auto v = load_partial<L>(x.data() + i, x.size() - i);
    acc = L::fma(v, v, acc);
  }
  return L::sum(acc);
}

// exp by range reduction: n = round(x / ln 2), polynomial of degree 6 on [-ln2/2, ln2/2], then 2^n
// in the exponent bits. Relative error below 3e-7 on [-87, 88], clamped outside.
template <class L>
typename L::F exp_lanes(typename L::F x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  // Bound first, x second: a NaN comes through.
  x = L::max(L::broadcast(-87.0f), x);
  x = L::min(L::broadcast(88.0f), x);
  const auto shifted = L::fma(x, L::broadcast(1.44269504f), L::broadcast(kShift));
  const auto n = L::sub(shifted, L::broadcast(kShift));
  auto r = L::fma(n, L::broadcast(-0.693145752f), x);  // ln 2, high part
  r = L::fma(n, L::broadcast(-1.42860677e-6f), r);     // ln 2, low part
  auto p = L::broadcast(1.38888889e-3f);
  p = L::fma(p, r, L::broadcast(8.33333333e-3f));
  p = L::fma(p, r, L::broadcast(4.16666667e-2f));
  p = L::fma(p, r, L::broadcast(1.66666667e-1f));
  p = L::fma(p, r, L::broadcast(0.5f));
  p = L::fma(p, r, L::broadcast(1.0f));
  p = L::fma(p, r, L::broadcast(1.0f));
  return L::mul(p, L::pow2(shifted));
}

template <class L>
typename L::F sigmoid_lanes(typename L::F x) {
  const auto one = L::broadcast(1.0f);
  return L::div(one, L::add(one, exp_lanes<L>(L::sub(L::zero(), x))));
}

template <class L>
void exp_minus(std::span<const float> x, float subtract, float* y) {
  const auto s = L::broadcast(subtract);
  map1<L>(x.data(), x.size(), y, [s](typename L::F v) { return exp_lanes<L>(L::sub(v, s)); });
}

template <class L>
void sigmoid(std::span<const float> x, float* y) {
  map1<L>(x.data(), x.size(), y, [](typename L::F v) { return sigmoid_lanes<L>(v); });
}

template <class L>
void silu_mul(std::span<const float> gate, std::span<const float> up, float* y) {
  map2<L>(gate.data(), up.data(), gate.size(), y, [](typename L::F g, typename L::F u) {
    return L::mul(L::mul(g, sigmoid_lanes<L>(g)), u);
  });
}

// gpt-oss: gate and up are clamped, and up moved by one. docs/models.md 2.8.
template <class L>
void clamped_swiglu(std::span<const float> gate, std::span<const float> up, float limit, float* y) {
  const auto high = L::broadcast(limit);
  const auto low = L::broadcast(-limit);
  map2<L>(gate.data(), up.data(), gate.size(), y, [&](typename L::F g, typename L::F u) {
    // Bound first, value second: a NaN comes through.
    g = L::min(high, g);
    u = L::add(L::max(low, L::min(high, u)), L::broadcast(1.0f));
    return L::mul(L::mul(u, g), sigmoid_lanes<L>(L::mul(g, L::broadcast(1.702f))));
  });
}

template <class L>
void axpy(float a, std::span<const float> x, float* y) {
  const auto factor = L::broadcast(a);
  map2<L>(x.data(), y, x.size(), y,
          [factor](typename L::F v, typename L::F w) { return L::fma(factor, v, w); });
}

template <class L>
void scale(float a, std::span<float> y) {
  const auto factor = L::broadcast(a);
  map1<L>(y.data(), y.size(), y.data(), [factor](typename L::F v) { return L::mul(factor, v); });
}

template <class L>
void rms_norm(std::span<const float> x, std::span<const float> weight, float eps, float* y) {
  const float mean = sum_of_squares<L>(x) / static_cast<float>(x.size());
  const auto inverse = L::broadcast(1.0f / __builtin_sqrtf(mean + eps));
  map2<L>(x.data(), weight.data(), x.size(), y,
          [inverse](typename L::F v, typename L::F w) { return L::mul(L::mul(v, inverse), w); });
}

template <class L>
void quantize_row(std::span<const float> x, std::int8_t* q, float* scales, std::int32_t* sums) {
  for (std::size_t g = 0; g < groups(x.size()); ++g) {
    const std::size_t left = x.size() - g * kGroup;
    typename L::F v[2];
    for (std::size_t half = 0; half < 2; ++half) {
      const std::size_t begin = half * kPanelRows;
      const std::size_t n = left <= begin ? 0 : left - begin;
      const float* in = x.data() + g * kGroup + begin;
      v[half] = n >= kPanelRows ? L::load(in) : n == 0 ? L::zero() : load_partial<L>(in, n);
    }
    const float absmax = L::max_lane(L::max(L::abs(v[0]), L::abs(v[1])));
    // A NaN or an infinity (their difference with themselves is NaN) makes the whole group NaN, so
    // that it is seen at the end; values whose reciprocal would overflow count as zero.
    const float poison = L::sum(L::sub(L::sub(v[0], v[0]), L::sub(v[1], v[1])));
    if (poison != 0.0f || absmax < 1e-30f) {
      scales[g] = poison;
      sums[g] = 0;
      std::memset(q + g * kGroup, 0, kGroup);
      continue;
    }
    const float inverse = 127.0f / absmax;
    scales[g] = absmax / 127.0f;
    std::int32_t sum = 0;
    for (std::size_t half = 0; half < 2; ++half) {
      sum += L::round_to_int8(L::mul(v[half], L::broadcast(inverse)),
                              q + g * kGroup + half * kPanelRows);
    }
    sums[g] = sum;
  }
}

template <class L>
void bf16_to_f32(std::span<const std::uint16_t> x, float* y) {
  std::size_t i = 0;
  for (; i + kPanelRows <= x.size(); i += kPanelRows) {
    L::store(y + i, L::load_bf16(reinterpret_cast<const std::byte*>(x.data() + i)));
  }
  if (i < x.size()) {
    std::uint16_t rest[kPanelRows] = {};
    std::memcpy(rest, x.data() + i, (x.size() - i) * sizeof(std::uint16_t));
    store_partial<L>(y + i, x.size() - i, L::load_bf16(reinterpret_cast<const std::byte*>(rest)));
  }
}

// One line of each of S regions in turn; S is fixed, so that the sums stay in registers.
template <class L, std::size_t S>
float read_fixed_streams(std::span<const std::byte> bytes) {
  constexpr std::size_t kUnroll = S < 4 ? 4 / S : 1;  // sums enough to hide an add's latency
  constexpr std::size_t kStep = kUnroll * 64;
  const std::size_t region = bytes.size() / S / kStep * kStep;
  typename L::F sums[S * kUnroll];
  for (auto& sum : sums) sum = L::zero();
  for (std::size_t offset = 0; offset < region; offset += kStep) {
    for (std::size_t i = 0; i < S * kUnroll; ++i) {
      const std::byte* line = bytes.data() + i % S * region + offset + i / S * 64;
      sums[i] = L::add(sums[i], L::load(reinterpret_cast<const float*>(line)));
    }
  }
  auto total = L::zero();
  for (const auto& sum : sums) total = L::add(total, sum);
  return L::sum(total);
}

template <class L>
float read_streams(std::span<const std::byte> bytes, std::size_t streams) {
  switch (streams) {
    case 1:
      return read_fixed_streams<L, 1>(bytes);
    case 2:
      return read_fixed_streams<L, 2>(bytes);
    case 4:
      return read_fixed_streams<L, 4>(bytes);
    default:
      return read_fixed_streams<L, 8>(bytes);
  }
}

// ---- Attention over rows of the latent cache

// scores[h * n + s] = scale * dot(q[h], rows[s]); H heads share each loaded row.
template <class L, std::size_t H>
void cache_scores_heads(const CacheBlock& block, const float* q, std::size_t q_stride, float factor,
                        float* scores) {
  for (std::size_t s = 0; s < block.n; ++s) {
    const float* row = block.rows + s * block.stride;
    typename L::F acc[H];
    for (auto& a : acc) a = L::zero();
    std::size_t i = 0;
    for (; i + kPanelRows <= block.width; i += kPanelRows) {
      const auto c = L::load(row + i);
      for (std::size_t h = 0; h < H; ++h) acc[h] = L::fma(L::load(q + h * q_stride + i), c, acc[h]);
    }
    if (i < block.width) {
      const auto c = load_partial<L>(row + i, block.width - i);
      for (std::size_t h = 0; h < H; ++h) {
        acc[h] = L::fma(load_partial<L>(q + h * q_stride + i, block.width - i), c, acc[h]);
      }
    }
    for (std::size_t h = 0; h < H; ++h) scores[h * block.n + s] = L::sum(acc[h]) * factor;
  }
}

template <class L>
void cache_scores(const CacheBlock& block, const float* q, std::size_t q_stride, std::size_t heads,
                  float factor, float* scores) {
  std::size_t h = 0;
  for (; h + 4 <= heads; h += 4) {
    cache_scores_heads<L, 4>(block, q + h * q_stride, q_stride, factor, scores + h * block.n);
  }
  for (; h < heads; ++h) {
    cache_scores_heads<L, 1>(block, q + h * q_stride, q_stride, factor, scores + h * block.n);
  }
}

// out[h] = out[h] * keep[h] + sum over s of p[h, s] * rows[s], s ascending.
template <class L, std::size_t H>
void cache_values_heads(const CacheBlock& block, const float* p, const float* keep, float* out,
                        std::size_t out_stride) {
  for (std::size_t i = 0; i < block.width; i += kPanelRows) {
    const std::size_t n = block.width - i < kPanelRows ? block.width - i : kPanelRows;
    const bool whole = n == kPanelRows;
    typename L::F acc[H];
    for (std::size_t h = 0; h < H; ++h) {
      const float* o = out + h * out_stride + i;
      acc[h] = L::mul(whole ? L::load(o) : load_partial<L>(o, n), L::broadcast(keep[h]));
    }
    for (std::size_t s = 0; s < block.n; ++s) {
      const float* row = block.rows + s * block.stride + i;
      const auto c = whole ? L::load(row) : load_partial<L>(row, n);
      for (std::size_t h = 0; h < H; ++h) {
        acc[h] = L::fma(L::broadcast(p[h * block.n + s]), c, acc[h]);
      }
    }
    for (std::size_t h = 0; h < H; ++h) {
      float* o = out + h * out_stride + i;
      if (whole) {
        L::store(o, acc[h]);
      } else {
        store_partial<L>(o, n, acc[h]);
      }
    }
  }
}

template <class L>
void cache_values(const CacheBlock& block, const float* p, const float* keep, std::size_t heads,
                  float* out, std::size_t out_stride) {
  std::size_t h = 0;
  for (; h + 4 <= heads; h += 4) {
    cache_values_heads<L, 4>(block, p + h * block.n, keep + h, out + h * out_stride, out_stride);
  }
  for (; h < heads; ++h) {
    cache_values_heads<L, 1>(block, p + h * block.n, keep + h, out + h * out_stride, out_stride);
  }
}

template <class L>
Operations make_operations() {
  return {
      .gemm = gemm<L, false>,
      .gemm_exact = gemm<L, true>,
      .quantize_row = quantize_row<L>,
      .rms_norm = rms_norm<L>,
      .silu_mul = silu_mul<L>,
      .clamped_swiglu = clamped_swiglu<L>,
      .sigmoid = sigmoid<L>,
      .exp_minus = exp_minus<L>,
      .axpy = axpy<L>,
      .scale = scale<L>,
      .read_streams = read_streams<L>,
      .bf16_to_f32 = bf16_to_f32<L>,
      .cache_scores = cache_scores<L>,
      .cache_values = cache_values<L>,
  };
}

}  // namespace conclave::kernels
