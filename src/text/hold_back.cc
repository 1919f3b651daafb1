#include "text/hold_back.h"

#include <algorithm>

namespace conclave::text {

std::optional<Found> find_first(std::string_view text, std::span<const std::string> patterns) {
  std::optional<Found> first;
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    if (patterns[i].empty()) continue;
    const std::size_t position = text.find(patterns[i]);
    if (position == std::string_view::npos) continue;
    const bool better =
        !first || position < first->position ||
        (position == first->position && patterns[i].size() > patterns[first->pattern].size());
    if (better) first = Found{position, i};
  }
  return first;
}

std::size_t held_size(std::string_view text, std::span<const std::string> patterns) {
  std::size_t held = 0;
  for (const std::string& pattern : patterns) {
    if (pattern.empty()) continue;
    for (std::size_t size = std::min(text.size(), pattern.size() - 1); size > held; --size) {
      if (text.substr(text.size() - size) == std::string_view(pattern).substr(0, size)) {
        held = size;
        break;
      }
    }
  }
  return held;
}

}  // namespace conclave::text
