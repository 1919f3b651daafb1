// Searching a stream for strings without showing a part of one too early.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace conclave::text {

struct Found {
  std::size_t position;
  std::size_t pattern;  // index of the string found
};

// The leftmost of `patterns` in `text`; at one place the longest. Empty patterns match nothing.
std::optional<Found> find_first(std::string_view text, std::span<const std::string> patterns);

// Bytes at the end of `text` that some pattern begins with: they must wait for what follows.
std::size_t held_size(std::string_view text, std::span<const std::string> patterns);

}  // namespace conclave::text
