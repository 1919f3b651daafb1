// 16 lanes as four NEON registers; dot products by SDOT (Armv8.2).
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace conclave::kernels {

struct NeonLanes {
  struct F {
    float32x4_t v[4];
  };
  struct I {
    int32x4_t v[4];
  };
  struct B {
    uint8x16_t v[4];
  };

  static constexpr std::size_t kStreams = 2;
  static constexpr std::size_t kPrefetchBytes = 2048;
  static constexpr std::size_t kTokensAtOnce = 2;
  static constexpr std::int32_t kInt8Offset = 0;  // dot_int8 takes the offset off itself

  template <class Function>
  static F each(Function f) {
    return {{f(0), f(1), f(2), f(3)}};
  }
  static F zero() { return broadcast(0.0f); }
  static F broadcast(float x) {
    return each([x](int) { return vdupq_n_f32(x); });
  }
  static F load(const float* p) {
    return each([p](int i) { return vld1q_f32(p + 4 * i); });
  }
  static void store(float* p, F x) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
  }
  static F load_bf16(const std::byte* p) {
    return each([p](int i) {
      std::uint16_t bits[4];
      std::memcpy(bits, p + 8 * i, sizeof bits);
      return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(bits), 16));
    });
  }
  static float32x4_t f16(uint16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_u16(bits)); }
  static F load_f16(const std::byte* p) {
    return each([p](int i) {
      std::uint16_t bits[4];
      std::memcpy(bits, p + 8 * i, sizeof bits);
      return f16(vld1_u16(bits));
    });
  }
  // See Avx512Lanes::load_e4m3.
  static F load_e4m3(const std::byte* p) {
    const uint8x16_t bytes = vld1q_u8(reinterpret_cast<const std::uint8_t*>(p));
    const uint16x8_t wide[2] = {vmovl_u8(vget_low_u8(bytes)), vmovl_u8(vget_high_u8(bytes))};
    return each([&wide](int i) {
      const uint16x4_t w = i % 2 == 0 ? vget_low_u16(wide[i / 2]) : vget_high_u16(wide[i / 2]);
      const uint16x4_t sign = vshl_n_u16(vand_u16(w, vdup_n_u16(0x80)), 8);
      const uint16x4_t rest = vshl_n_u16(vand_u16(w, vdup_n_u16(0x7f)), 7);
      return vmulq_n_f32(f16(vorr_u16(sign, rest)), 256.0f);
    });
  }

  static F fma(F a, F b, F c) {
    return each([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
  }
  static F add(F a, F b) {
    return each([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
  }
  static F sub(F a, F b) {
    return each([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
  }
  static F mul(F a, F b) {
    return each([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
  }
  static F div(F a, F b) {
    return each([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
  }
  static F max(F a, F b) {
    return each([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
  }
  static F min(F a, F b) {
    return each([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
  }
  static F abs(F a) {
    return each([&](int i) { return vabsq_f32(a.v[i]); });
  }
  static F pow2(F shifted) {
    return each([&](int i) {
      const int32x4_t bits = vshlq_n_s32(vreinterpretq_s32_f32(shifted.v[i]), 23);
      return vreinterpretq_f32_s32(vaddq_s32(bits, vdupq_n_s32(0x3f800000)));
    });
  }
  static float sum(F a) {
    const float32x4_t x = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    const float32x2_t y = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(y, 0) + vget_lane_f32(y, 1);
  }
  static float max_lane(F a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[2]), vmaxq_f32(a.v[1], a.v[3])));
  }
  static std::int32_t round_to_int8(F a, std::int8_t* q) {
    std::int32_t total = 0;
    for (int i = 0; i < 4; ++i) {
      std::int32_t rounded[4];
      vst1q_s32(rounded, vcvtnq_s32_f32(a.v[i]));
      for (int j = 0; j < 4; ++j) {
        q[4 * i + j] = static_cast<std::int8_t>(rounded[j]);
        total += rounded[j];
      }
    }
    return total;
  }

  static I add_high_nibbles(I acc, I high) {
    for (int i = 0; i < 4; ++i) acc.v[i] = vaddq_s32(acc.v[i], high.v[i]);
    return acc;
  }
  static I broadcast_int(std::int32_t x) {
    return {{vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}};
  }
  static F to_float(I a) {
    return each([&](int i) { return vcvtq_f32_s32(a.v[i]); });
  }
  static B load_bytes(const std::byte* p) {
    B out;
    for (int i = 0; i < 4; ++i)
      out.v[i] = vld1q_u8(reinterpret_cast<const std::uint8_t*>(p) + 16 * i);
    return out;
  }
  static B low_nibbles(B b) {
    for (auto& part : b.v) part = vandq_u8(part, vdupq_n_u8(15));
    return b;
  }
  static B high_nibbles(B b) {
    for (auto& part : b.v) part = vshrq_n_u8(part, 4);
    return b;
  }
  static B upper_nibbles(B b) { return high_nibbles(b); }
  static B look_up(const std::uint8_t* table, B index) {
    const uint8x16_t entries = vld1q_u8(table);
    for (auto& part : index.v) part = vqtbl1q_u8(entries, part);
    return index;
  }
  static int8x16_t broadcast_four(const std::int8_t* a) {
    std::int32_t four;
    std::memcpy(&four, a, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  static I dot_uint4(I acc, B w, const std::int8_t* a) {
    const int8x16_t four = broadcast_four(a);
    for (int i = 0; i < 4; ++i) acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_u8(w.v[i]), four);
    return acc;
  }
  static I dot_int8(I acc, B w, const std::int8_t* a) {
    for (auto& part : w.v) part = veorq_u8(part, vdupq_n_u8(0x80));
    return dot_uint4(acc, w, a);
  }
  static void prefetch(const std::byte* p) { __builtin_prefetch(p); }
};

}  // namespace conclave::kernels
