// Numbers in files and messages, where `bytes` has room for them: nothing is checked here.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>

namespace conclave {

// memcpy below, so that compilers make plain loads of it, and of loops plain vectors.
static_assert(std::endian::native == std::endian::little);

template <class Value>
void put_little_endian(std::span<std::byte> bytes, std::size_t at, Value value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

template <class Value>
Value get_little_endian(std::span<const std::byte> bytes, std::size_t at) {
  Value value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// Number `index` of those that `bytes` holds one after the other.
template <class Value>
Value nth_little_endian(std::span<const std::byte> bytes, std::size_t index) {
  return get_little_endian<Value>(bytes, index * sizeof(Value));
}

}  // namespace conclave
