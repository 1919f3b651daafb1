#include "text/call_header.h"

namespace conclave::text {
namespace {

constexpr std::string_view kSpace = " \t\r\n";
constexpr std::string_view kPrefix = "functions.";
constexpr std::string_view kFence = "```";

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

CallHeader parse_kimi_header(std::string_view text, std::size_t call_number) {
  text = trimmed(text);
  std::string_view name = text;
  const std::size_t colon = name.rfind(':');
  const bool numbered =
      colon != std::string_view::npos && all_digits(trimmed(text.substr(colon + 1)));
  if (numbered) name = trimmed(name.substr(0, colon));
  // Names may hold dots and dashes themselves: only this prefix goes.
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  CallHeader header{std::string(text), std::string(name)};
  const bool in_one_piece = text.find_first_of(kSpace) == std::string_view::npos;
  if (!numbered || !in_one_piece) {
    header.id = std::string(kPrefix) + header.name + ":" + std::to_string(call_number);
  }
  return header;
}

std::optional<FenceHeader> parse_fence_header(std::string_view text, bool last) {
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) {
    return last ? std::optional(FenceHeader{"", text.size()}) : std::nullopt;
  }
  if (text[begin] == '{') return FenceHeader{"", begin};
  const std::size_t line_end = text.find('\n', begin);
  if (line_end == std::string_view::npos) {
    if (!last) return std::nullopt;
    return FenceHeader{std::string(trimmed(text)), text.size()};
  }
  const std::string name(trimmed(text.substr(begin, line_end - begin)));
  const std::string_view rest = text.substr(line_end + 1);
  if (rest.size() < kFence.size() && kFence.starts_with(rest) && !last) return std::nullopt;
  if (!rest.starts_with(kFence)) return FenceHeader{name, line_end + 1};
  const std::size_t fence_end = rest.find('\n');
  if (fence_end == std::string_view::npos) {
    return last ? std::optional(FenceHeader{name, text.size(), true}) : std::nullopt;
  }
  return FenceHeader{name, line_end + 1 + fence_end + 1, true};
}

}  // namespace conclave::text
