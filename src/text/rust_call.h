// The narrow place where the Rust bridge's exceptions become Results.
#pragma once

#include <conclave-text/src/lib.rs.h>
#include <rust/cxx.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/result.h"

namespace conclave::text {

// "limit: ..." is the crate's word for a stated limit that was reached.
inline Error rust_error(std::string_view what, std::string_view message) {
  constexpr std::string_view kLimit = "limit: ";
  const bool limit = message.starts_with(kLimit);
  if (limit) message.remove_prefix(kLimit.size());
  std::string text = std::string(what) + ": " + std::string(message);
  return limit ? exhausted(std::move(text)) : invalid_input(std::move(text));
}

// Calls the bridge; `what` (a file, "grammar") leads the message of an error.
template <class Call>
auto rust_call(std::string_view what, Call&& call) -> Result<std::invoke_result_t<Call>> {
  try {
    if constexpr (std::is_void_v<std::invoke_result_t<Call>>) {
      std::forward<Call>(call)();
      return {};
    } else {
      return std::forward<Call>(call)();
    }
  } catch (const rust::Error& error) {
    return rust_error(what, error.what());
  }
}

inline rust::Slice<const std::uint8_t> rust_bytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

inline std::string_view text_of(rust::Slice<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline std::string_view text_of(const rust::String& text) { return {text.data(), text.size()}; }

}  // namespace conclave::text
