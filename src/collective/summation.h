// Adding rows of numbers as messages hold them. One prescribed order: the bits are a promise.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "collective/collective.h"

namespace conclave::collective {

// Bytes of one number.
constexpr std::size_t size_of(Wire wire) { return wire == Wire::kF32 ? 4 : 2; }

// Numbers in a message or in a rank's own memory, aligned to their size.
struct Values {
  std::span<const std::byte> bytes;
  Wire wire = Wire::kF32;

  std::size_t size() const { return bytes.size() / size_of(wire); }
  Values part(std::size_t begin, std::size_t n) const {
    return {bytes.subspan(begin * size_of(wire), n * size_of(wire)), wire};
  }
};
Values values_of(std::span<const float> numbers);

// out[i] = values[i]
void copy_values(const Values& values, std::span<float> out);
// out[i] += values[i]
void add_values(const Values& values, std::span<float> out);
// To the nearest bf16, ties to even.
void round_to_bf16(std::span<float> numbers);
// The numbers as `wire` writes them, rounded; kept in `storage`.
Values pack(std::span<const float> numbers, Wire wire, std::vector<std::byte>& storage);

}  // namespace conclave::collective
