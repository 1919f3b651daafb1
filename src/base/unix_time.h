// The time of day, which people set and servers move: for comparing machines, never for waiting.
#pragma once

#include <chrono>
#include <cstdint>

namespace conclave {

// Microseconds since 1970.
inline std::uint64_t unix_microseconds() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(since).count());
}

}  // namespace conclave
