// 16 lanes in plain C++: the specification that every other instruction set must match bit by bit.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/number_formats.h"

namespace conclave::kernels {

struct ScalarLanes {
  struct F {
    float v[16];
  };
  struct I {
    std::int32_t v[16];
  };
  struct B {
    std::uint8_t v[64];
  };

  static constexpr std::size_t kStreams = 1;
  static constexpr std::size_t kPrefetchBytes = 2048;
  static constexpr std::size_t kTokensAtOnce = 2;
  static constexpr std::int32_t kInt8Offset = 128;

  template <class Function>
  static F each(Function f) {
    F out;
    for (std::size_t i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
  }

  static F zero() { return broadcast(0.0f); }
  static F broadcast(float x) {
    return each([x](std::size_t) { return x; });
  }
  static F load(const float* p) {
    F out;
    std::memcpy(out.v, p, sizeof out.v);
    return out;
  }
  static void store(float* p, F x) { std::memcpy(p, x.v, sizeof x.v); }
  static F load_bf16(const std::byte* p) {
    std::uint16_t bits[16];
    std::memcpy(bits, p, sizeof bits);
    return each([&bits](std::size_t i) { return bf16_to_float(bits[i]); });
  }
  static F load_f16(const std::byte* p) {
    std::uint16_t bits[16];
    std::memcpy(bits, p, sizeof bits);
    return each([&bits](std::size_t i) { return f16_to_float(bits[i]); });
  }
  static F load_e4m3(const std::byte* p) {
    return each([p](std::size_t i) { return e4m3_to_float(std::to_integer<std::uint8_t>(p[i])); });
  }

  static F fma(F a, F b, F c) {
    return each([&](std::size_t i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
  }
  static F add(F a, F b) {
    return each([&](std::size_t i) { return a.v[i] + b.v[i]; });
  }
  static F sub(F a, F b) {
    return each([&](std::size_t i) { return a.v[i] - b.v[i]; });
  }
  static F mul(F a, F b) {
    return each([&](std::size_t i) { return a.v[i] * b.v[i]; });
  }
  static F div(F a, F b) {
    return each([&](std::size_t i) { return a.v[i] / b.v[i]; });
  }
  // The second operand where either is NaN, as x86 does.
  static F max(F a, F b) {
    return each([&](std::size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F min(F a, F b) {
    return each([&](std::size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F abs(F a) {
    return each([&](std::size_t i) { return std::fabs(a.v[i]); });
  }
  // 2^n for shifted = 1.5 * 2^23 + n: n sits in the low bits of the float.
  static F pow2(F shifted) {
    return each([&](std::size_t i) {
      return std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted.v[i]) << 23) + 0x3f800000u);
    });
  }
  static float sum(F a) {
    for (std::size_t width = 8; width > 0; width /= 2) {
      for (std::size_t i = 0; i < width; ++i) a.v[i] += a.v[i + width];
    }
    return a.v[0];
  }
  static float max_lane(F a) {
    for (std::size_t width = 8; width > 0; width /= 2) {
      for (std::size_t i = 0; i < width; ++i) {
        if (a.v[i + width] > a.v[i]) a.v[i] = a.v[i + width];
      }
    }
    return a.v[0];
  }
  // Stores 16 values rounded to nearest even as int8; returns their sum.
  static std::int32_t round_to_int8(F a, std::int8_t* q) {
    std::int32_t total = 0;
    for (std::size_t i = 0; i < 16; ++i) {
      q[i] = static_cast<std::int8_t>((a.v[i] + 12582912.0f) - 12582912.0f);
      total += q[i];
    }
    return total;
  }

  static I add_high_nibbles(I acc, const I& high) {
    for (std::size_t i = 0; i < 16; ++i) acc.v[i] += high.v[i];
    return acc;
  }
  static I broadcast_int(std::int32_t x) {
    I out;
    for (auto& lane : out.v) lane = x;
    return out;
  }
  static F to_float(I a) {
    return each([&](std::size_t i) { return static_cast<float>(a.v[i]); });
  }
  static B load_bytes(const std::byte* p) {
    B out;
    std::memcpy(out.v, p, sizeof out.v);
    return out;
  }
  static B low_nibbles(B b) {
    for (auto& byte : b.v) byte &= 15u;
    return b;
  }
  static B high_nibbles(B b) {
    for (auto& byte : b.v) byte = static_cast<std::uint8_t>(byte >> 4);
    return b;
  }
  static B upper_nibbles(B b) { return high_nibbles(b); }
  static B look_up(const std::uint8_t* table, B index) {
    for (auto& byte : index.v) byte = table[byte];
    return index;
  }
  // lane += sum of 4 stored bytes times a[0..3]
  static I dot_int8(I acc, B w, const std::int8_t* a) {
    for (std::size_t i = 0; i < 16; ++i) {
      for (std::size_t j = 0; j < 4; ++j) acc.v[i] += w.v[i * 4 + j] * a[j];
    }
    return acc;
  }
  static I dot_uint4(I acc, B w, const std::int8_t* a) { return dot_int8(acc, w, a); }
  static void prefetch(const std::byte*) {}
};

}  // namespace conclave::kernels
