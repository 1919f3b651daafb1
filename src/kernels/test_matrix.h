// Random matrices in every source format, for tests.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <vector>

#include "base/number_formats.h"
#include "base/rng.h"
#include "kernels/kernels.h"

namespace conclave::kernels {

struct TestMatrix {
  SourceFormat format;
  std::size_t rows, cols;
  std::vector<std::byte> weights, scales;
  std::vector<std::byte> offsets = {};  // kMlx*, kPacked*
  SourceMatrix view() const {
    SourceMatrix m{format, rows, cols, weights, scales};
    if (!has_stream(format)) return m;
    m.offsets = offsets;
    m.group = 32;
    const bool four = format == SourceFormat::kMlx4 || format == SourceFormat::kPacked4 ||
                      format == SourceFormat::kPackedBf16x4;
    m.bits = four ? 4 : 8;
    return m;
  }
  static bool has_stream(SourceFormat f) {
    return f >= SourceFormat::kMlx4 && f <= SourceFormat::kPackedBf16x8;
  }
};

template <class T>
void append(std::vector<std::byte>& out, T value) {
  std::byte bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

inline float normal(SplitMix& rng) {
  double sum = -6.0;
  for (int i = 0; i < 12; ++i) sum += rng.uniform();
  return static_cast<float>(sum);
}

// f16 bits of a small normal number.
inline std::uint16_t random_f16(SplitMix& rng) {
  return static_cast<std::uint16_t>((rng.next() & 0x83ffu) | ((12 + rng.next() % 4) << 10));
}

inline void fill_blocks(TestMatrix& m, SplitMix& rng) {
  const BlockLayout plan = block_layout(m.format);
  for (std::size_t block = 0; block < m.rows * m.cols / plan.inputs; ++block) {
    std::vector<std::byte> bytes;
    for (std::size_t i = 0; i < plan.bytes; ++i)
      append(bytes, static_cast<std::uint8_t>(rng.next()));
    for (std::size_t i = 0; i < plan.scales; ++i) {
      const std::uint16_t bits = random_f16(rng);
      std::memcpy(bytes.data() + plan.first_scale + 2 * i, &bits, 2);
    }
    if (plan.scales == 0) bytes[0] = static_cast<std::byte>(118 + rng.next() % 8);
    m.weights.insert(m.weights.end(), bytes.begin(), bytes.end());
  }
}

inline void fill_stream(TestMatrix& m, SplitMix& rng) {
  const std::size_t groups = m.rows * m.cols / 32;
  const bool mlx = m.format == SourceFormat::kMlx4 || m.format == SourceFormat::kMlx8;
  for (std::size_t i = 0; i < m.rows * m.cols * m.view().bits / 8; ++i)
    append(m.weights, static_cast<std::uint8_t>(rng.next()));
  for (std::size_t i = 0; i < groups; ++i) append(m.scales, float_to_bf16(normal(rng)));
  if (mlx) {
    for (std::size_t i = 0; i < groups; ++i) append(m.offsets, float_to_bf16(normal(rng)));
    return;
  }
  if (m.format >= SourceFormat::kPackedBf16x4) return;  // no zero points
  const std::size_t per_word = 32 / m.view().bits;
  for (std::size_t i = 0; i < (m.rows + per_word - 1) / per_word * (m.cols / 32); ++i)
    append(m.offsets, static_cast<std::uint32_t>(rng.next()));
}

inline TestMatrix make_matrix(SourceFormat format, std::size_t rows, std::size_t cols,
                              std::uint64_t seed) {
  TestMatrix m{format, rows, cols, {}, {}};
  SplitMix rng(seed);
  const std::size_t n = rows * cols;
  switch (format) {
    case SourceFormat::kF32:
      for (std::size_t i = 0; i < n; ++i) append(m.weights, normal(rng));
      break;
    case SourceFormat::kF16:
      for (std::size_t i = 0; i < n; ++i) append(m.weights, random_f16(rng));
      break;
    case SourceFormat::kBF16:
      for (std::size_t i = 0; i < n; ++i) append(m.weights, float_to_bf16(normal(rng)));
      break;
    case SourceFormat::kFp8Block:
      for (std::size_t i = 0; i < n; ++i) {
        const auto bits = static_cast<std::uint8_t>(rng.next());
        append(m.weights, (bits & 0x7fu) == 0x7fu ? std::uint8_t{0} : bits);
      }
      for (std::size_t i = 0; i < (rows + 127) / 128 * ((cols + 127) / 128); ++i) {
        append(m.scales, static_cast<float>(0.001 + 0.01 * rng.uniform()));
      }
      break;
    case SourceFormat::kMxfp4:
      for (std::size_t i = 0; i < n / 2; ++i)
        append(m.weights, static_cast<std::uint8_t>(rng.next()));
      for (std::size_t i = 0; i < n / 32; ++i) {
        append(m.scales, static_cast<std::uint8_t>(118 + rng.next() % 8));
      }
      break;
    case SourceFormat::kInt4Group:
      for (std::size_t i = 0; i < n / 2; ++i)
        append(m.weights, static_cast<std::uint8_t>(rng.next()));
      for (std::size_t i = 0; i < n / 32; ++i) {
        append(m.scales, float_to_bf16(static_cast<float>(0.01 + 0.1 * rng.uniform())));
      }
      break;
    case SourceFormat::kMlx4:
    case SourceFormat::kMlx8:
    case SourceFormat::kPacked4:
    case SourceFormat::kPacked8:
    case SourceFormat::kPackedBf16x4:
    case SourceFormat::kPackedBf16x8:
      fill_stream(m, rng);
      break;
    case SourceFormat::kHeads:
      ADD_FAILURE() << "made of two others";
      break;
    default:
      fill_blocks(m, rng);
  }
  return m;
}

}  // namespace conclave::kernels
