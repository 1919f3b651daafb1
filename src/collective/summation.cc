#include "collective/summation.h"

#include <bit>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "base/number_formats.h"

namespace conclave::collective {
namespace {

static_assert(std::endian::native == std::endian::little, "messages are little-endian");

// memcpy instead of a cast: the bytes are a message's. Compilers make plain vector loads of it.
float f32_at(const std::byte* bytes, std::size_t i) {
  float value;
  std::memcpy(&value, bytes + i * sizeof value, sizeof value);
  return value;
}

float bf16_at(const std::byte* bytes, std::size_t i) {
  std::uint16_t bits;
  std::memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
  return bf16_to_float(bits);
}

}  // namespace

Values values_of(std::span<const float> numbers) { return {std::as_bytes(numbers), Wire::kF32}; }

void copy_values(const Values& values, std::span<float> out) {
  CHECK(values.size() == out.size());
  const std::byte* const bytes = values.bytes.data();
  if (values.wire == Wire::kF32) {
    if (!out.empty()) std::memcpy(out.data(), bytes, out.size_bytes());
  } else {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = bf16_at(bytes, i);
  }
}

void add_values(const Values& values, std::span<float> out) {
  CHECK(values.size() == out.size());
  const std::byte* const bytes = values.bytes.data();
  if (values.wire == Wire::kF32) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += f32_at(bytes, i);
  } else {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += bf16_at(bytes, i);
  }
}

void round_to_bf16(std::span<float> numbers) {
  for (float& number : numbers) number = bf16_to_float(float_to_bf16(number));
}

Values pack(std::span<const float> numbers, Wire wire, std::vector<std::byte>& storage) {
  storage.resize(numbers.size() * size_of(wire));
  if (wire == Wire::kF32) {
    if (!numbers.empty()) std::memcpy(storage.data(), numbers.data(), numbers.size_bytes());
  } else {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const std::uint16_t bits = float_to_bf16(numbers[i]);
      std::memcpy(storage.data() + i * sizeof bits, &bits, sizeof bits);
    }
  }
  return {storage, wire};
}

}  // namespace conclave::collective
