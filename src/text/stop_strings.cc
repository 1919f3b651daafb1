#include <utility>

#include "text/hold_back.h"
#include "text/text.h"

namespace conclave::text {

StopStrings::Output StopStrings::push(std::string_view text) {
  held_ += text;
  if (const auto found = find_first(held_, stops_)) {
    Output output{held_.substr(0, found->position), stops_[found->pattern]};
    held_.clear();
    return output;
  }
  const std::size_t shown = held_.size() - held_size(held_, stops_);
  Output output{held_.substr(0, shown), std::nullopt};
  held_.erase(0, shown);
  return output;
}

std::string StopStrings::finish() { return std::exchange(held_, {}); }

}  // namespace conclave::text
