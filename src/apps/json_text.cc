#include "apps/json_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>

namespace conclave::apps {

std::vector<TokenId> best_tokens(std::span<const float> logits, std::size_t top) {
  std::vector<TokenId> ids(logits.size());
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = TokenId{static_cast<std::uint32_t>(i)};
  const auto better = [logits](TokenId a, TokenId b) {
    const float left = logits[a.value];
    const float right = logits[b.value];
    return left > right || (left == right && a < b);
  };
  const auto middle =
      ids.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(top, ids.size()));
  std::partial_sort(ids.begin(), middle, ids.end(), better);
  ids.erase(middle, ids.end());
  return ids;
}

std::string position_json(std::span<const float> logits, std::span<const TokenId> ids) {
  std::string text = "{\"ids\":[";
  auto out = std::back_inserter(text);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    fmt::format_to(out, "{}{}", i == 0 ? "" : ",", ids[i].value);
  }
  text += "],\"logits\":[";
  for (std::size_t i = 0; i < ids.size(); ++i) {
    fmt::format_to(out, "{}{:.9g}", i == 0 ? "" : ",", logits[ids[i].value]);
  }
  text += "]}";
  return text;
}

std::string experts_json(std::span<const ExpertId> experts, std::size_t experts_per_token) {
  std::string text = "[";
  auto out = std::back_inserter(text);
  for (std::size_t i = 0; i < experts.size(); ++i) {
    const bool first = i % experts_per_token == 0;
    if (first) text += i == 0 ? "[" : "],[";
    fmt::format_to(out, "{}{}", first ? "" : ",", experts[i].value);
  }
  text += experts.empty() ? "]" : "]]";
  return text;
}

}  // namespace conclave::apps
