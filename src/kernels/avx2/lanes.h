// 16 lanes as two AVX2 registers.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace conclave::kernels {

struct Avx2Lanes {
  struct F {
    __m256 lo, hi;
  };
  struct I {
    __m256i lo, hi;
  };
  using B = I;

  static constexpr std::size_t kStreams = 2;
  static constexpr std::size_t kPrefetchBytes = 2048;
  static constexpr std::size_t kTokensAtOnce = 2;
  static constexpr std::int32_t kInt8Offset = 0;  // dot_int8 takes the offset off itself

  static F zero() { return broadcast(0.0f); }
  static F broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F x) {
    _mm256_storeu_ps(p, x.lo);
    _mm256_storeu_ps(p + 8, x.hi);
  }
  static __m256 bf16(const std::byte* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static F load_bf16(const std::byte* p) { return {bf16(p), bf16(p + 16)}; }
  static F load_f16(const std::byte* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)))};
  }
  // See Avx512Lanes::load_e4m3.
  static __m256 e4m3(__m128i wide) {
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
    const __m128i rest = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x7f)), 7);
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, rest)), _mm256_set1_ps(256.0f));
  }
  static F load_e4m3(const std::byte* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {e4m3(_mm_cvtepu8_epi16(bytes)), e4m3(_mm_cvtepu8_epi16(_mm_srli_si128(bytes, 8)))};
  }

  static F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  static F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  static F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  static F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  static F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  static F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
  static F abs(F a) {
    const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(a.lo, mask), _mm256_and_ps(a.hi, mask)};
  }
  static __m256 pow2_half(__m256 shifted) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23),
                                                _mm256_set1_epi32(0x3f800000)));
  }
  static F pow2(F shifted) { return {pow2_half(shifted.lo), pow2_half(shifted.hi)}; }
  static float sum(F a) {
    const __m256 x = _mm256_add_ps(a.lo, a.hi);
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }
  static float max_lane(F a) {
    const __m256 x = _mm256_max_ps(a.lo, a.hi);
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
  }
  static std::int32_t round_to_int8(F a, std::int8_t* q) {
    alignas(32) std::int32_t rounded[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(rounded), _mm256_cvtps_epi32(a.lo));
    _mm256_store_si256(reinterpret_cast<__m256i*>(rounded + 8), _mm256_cvtps_epi32(a.hi));
    std::int32_t total = 0;
    for (std::size_t i = 0; i < 16; ++i) {
      q[i] = static_cast<std::int8_t>(rounded[i]);
      total += rounded[i];
    }
    return total;
  }

  static I add_high_nibbles(I acc, I high) {
    return {_mm256_add_epi32(acc.lo, high.lo), _mm256_add_epi32(acc.hi, high.hi)};
  }
  static I broadcast_int(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static F to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
  static B load_bytes(const std::byte* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
  }
  static B low_nibbles(B b) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(b.lo, mask), _mm256_and_si256(b.hi, mask)};
  }
  static B high_nibbles(B b) {
    return low_nibbles({_mm256_srli_epi16(b.lo, 4), _mm256_srli_epi16(b.hi, 4)});
  }
  static B upper_nibbles(B b) { return high_nibbles(b); }
  static B look_up(const std::uint8_t* table, B index) {
    const __m256i entries =
        _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(entries, index.lo), _mm256_shuffle_epi8(entries, index.hi)};
  }
  static __m256i broadcast_four(const std::int8_t* a) {
    std::int32_t four;
    std::memcpy(&four, a, sizeof four);
    return _mm256_set1_epi32(four);
  }
  // unsigned w, at most 128, times signed a within +-127: the 16-bit pairs cannot saturate.
  static __m256i dot_half(__m256i acc, __m256i w, __m256i a) {
    const __m256i pairs = _mm256_maddubs_epi16(w, a);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static I dot_uint4(I acc, B w, const std::int8_t* a) {
    const __m256i four = broadcast_four(a);
    return {dot_half(acc.lo, w.lo, four), dot_half(acc.hi, w.hi, four)};
  }
  // Bytes up to 255 would saturate, so the true value w is used: |w| times sign(w) * a.
  static __m256i dot_signed_half(__m256i acc, __m256i stored, __m256i a) {
    const __m256i w = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
    return dot_half(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
  }
  static I dot_int8(I acc, B w, const std::int8_t* a) {
    const __m256i four = broadcast_four(a);
    return {dot_signed_half(acc.lo, w.lo, four), dot_signed_half(acc.hi, w.hi, four)};
  }
  static void prefetch(const std::byte* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }
};

}  // namespace conclave::kernels
