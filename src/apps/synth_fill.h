// The bytes of synthetic tensors: a pure function of seed, tensor and offset, so that any number of
// threads may write any pieces in any order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "apps/synth_tensors.h"

namespace conclave::apps {

// Pieces of a tensor begin at multiples of this many bytes.
inline constexpr std::size_t kFillAlignment = 4096;

// Values that all tensors share; made once.
class SynthTables {
 public:
  SynthTables();
  // Inverse of the normal distribution at kSize evenly spaced probabilities: mean 0, deviation 1.
  std::span<const float> normal() const { return normal_; }
  // The same as e4m3 codes, scaled to kFp8Deviation.
  std::span<const std::uint8_t> fp8() const { return fp8_; }

  static constexpr std::size_t kSize = 4096;
  static constexpr float kFp8Deviation = 100.0f;  // leaves 4.48 deviations below e4m3's 448

 private:
  std::vector<float> normal_;
  std::vector<std::uint8_t> fp8_;
};

// Writes the bytes of one tensor.
class TensorFiller {
 public:
  // `tables` must outlive the filler.
  TensorFiller(const SynthTables& tables, const SynthTensor& tensor, std::uint64_t seed);

  // `out` receives the tensor's bytes from `offset` on; `offset` is a multiple of kFillAlignment.
  void fill(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  void prepare_bf16_table();
  void prepare_int8_grid();
  void fill_bf16(std::uint64_t offset, std::span<std::byte> out) const;
  void fill_int8_grid(std::uint64_t offset, std::span<std::byte> out) const;
  void fill_fp8(std::uint64_t offset, std::span<std::byte> out) const;
  void fill_random(std::uint64_t offset, std::span<std::byte> out) const;
  void fill_f32(std::uint64_t offset, std::span<std::byte> out) const;
  float f32_at(std::uint64_t index) const;

  const SynthTables& tables_;
  SynthFill fill_;
  float deviation_;
  std::uint64_t key_;
  std::size_t groups_per_row_;  // kNormalInt8
  std::array<std::int32_t, 2> logical_;
  std::vector<std::uint16_t> bf16_;  // kSize values for 12 random bits
  std::uint16_t grid_largest_ = 0;   // kNormalInt8: 127 steps
};

}  // namespace conclave::apps
