// 16 lanes as one AVX-512 register; dot products by VNNI.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace conclave::kernels {

struct Avx512Lanes {
  using F = __m512;
  using I = __m512i;
  using B = __m512i;

  static constexpr std::size_t kStreams = 4;
  // Far enough ahead to hide memory latency, near enough to stay in L1. Measured, see bench.
  static constexpr std::size_t kPrefetchBytes = 2048;
  static constexpr std::size_t kTokensAtOnce = 8;
  static constexpr std::int32_t kInt8Offset = 128;  // vpdpbusd wants unsigned weights

  static F zero() { return _mm512_setzero_ps(); }
  static F broadcast(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F load_bf16(const std::byte* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static F load_f16(const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // e4m3's exponent and mantissa fit into those of f16, 8 exponent steps too low; the product with
  // 2^8 is exact, subnormals included.
  static F load_e4m3(const std::byte* p) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    const __m256i rest = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)), 7);
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, rest)), _mm512_set1_ps(256.0f));
  }

  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F pow2(F shifted) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23),
                                                _mm512_set1_epi32(0x3f800000)));
  }
  static float sum(F a) {
    const __m256 high = _mm512_extractf32x8_ps(a, 1);
    __m256 x = _mm256_add_ps(_mm512_castps512_ps256(a), high);
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }
  static float max_lane(F a) { return _mm512_reduce_max_ps(a); }
  static std::int32_t round_to_int8(F a, std::int8_t* q) {
    const __m512i rounded = _mm512_cvtps_epi32(a);  // to nearest even, the default mode
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(rounded));
    return _mm512_reduce_add_epi32(rounded);
  }

  // dot_uint4 of high_nibbles is 16 times the true sum, exactly.
  static I add_high_nibbles(I acc, I high) {
    return _mm512_add_epi32(acc, _mm512_srai_epi32(high, 4));
  }
  static I broadcast_int(std::int32_t x) { return _mm512_set1_epi32(x); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static B load_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
  static B low_nibbles(B b) { return _mm512_and_si512(b, _mm512_set1_epi8(15)); }
  // Left in place, times 16, which saves a shift for each: see add_high_nibbles.
  static B high_nibbles(B b) {
    return _mm512_and_si512(b, _mm512_set1_epi8(static_cast<char>(0xf0)));
  }
  static B upper_nibbles(B b) {
    return _mm512_and_si512(_mm512_srli_epi16(b, 4), _mm512_set1_epi8(15));
  }
  static B look_up(const std::uint8_t* table, B index) {
    const __m128i entries = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), index);
  }
  static I dot_int8(I acc, B w, const std::int8_t* a) {
    std::int32_t four;
    std::memcpy(&four, a, sizeof four);
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four));
  }
  static I dot_uint4(I acc, B w, const std::int8_t* a) { return dot_int8(acc, w, a); }
  static void prefetch(const std::byte* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }
};

}  // namespace conclave::kernels
