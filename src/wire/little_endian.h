// Integers in fixed binary layouts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace conclave::wire {

template <class Value>
void put_little_endian(std::span<std::byte> bytes, std::size_t at, Value value) {
  for (std::size_t i = 0; i < sizeof(Value); ++i) {
    bytes[at + i] = static_cast<std::byte>(static_cast<std::uint64_t>(value) >> (8 * i));
  }
}

template <class Value>
Value get_little_endian(std::span<const std::byte> bytes, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(Value); ++i) {
    value |= std::to_integer<std::uint64_t>(bytes[at + i]) << (8 * i);
  }
  return static_cast<Value>(value);
}

}  // namespace conclave::wire
