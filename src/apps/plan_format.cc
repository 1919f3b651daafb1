#include "apps/plan_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace conclave::apps {
namespace {

bool starts_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

// Where the character after the first `count` starts.
std::size_t offset_of(std::string_view text, std::size_t count) {
  std::size_t at = 0;
  for (; at < text.size(); ++at) {
    if (starts_character(text[at]) && count-- == 0) break;
  }
  return at;
}

// 12345678 -> "12,345,678", whatever the locale.
std::string with_commas(double value) {
  std::string digits = fmt::format("{:.0f}", value);
  const std::size_t first = digits.starts_with('-') ? 1 : 0;
  for (std::size_t at = digits.size(); at > first + 3;) {
    at -= 3;
    digits.insert(at, 1, ',');
  }
  return digits;
}

}  // namespace

std::string figure(double value) {
  if (!std::isfinite(value)) return "-";
  const double size = std::fabs(value);
  if (size >= 99.95) return with_commas(value);
  if (size >= 9.995) return fmt::format("{:.1f}", value);
  if (size >= 0.9995 || size == 0.0) return fmt::format("{:.2f}", value);
  return fmt::format("{:.3f}", value);
}

std::string gigabytes(double bytes) {
  const double value = bytes / 1e9;
  if (value == 0.0) return "0";
  if (value < 0.1) return fmt::format("{:.3f}", value);
  return value < 10.0 ? fmt::format("{:.2f}", value) : fmt::format("{:.1f}", value);
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds)) return "-";
  if (seconds < 1e-3) return figure(seconds * 1e6) + " us";
  if (seconds < 1.0) return figure(seconds * 1e3) + " ms";
  return figure(seconds) + " s";
}

std::string bar(double share, std::size_t width) {
  if (!(share > 0.0)) return "";
  const double scaled = std::round(std::min(share, 1.0) * static_cast<double>(width));
  return std::string(std::max<std::size_t>(static_cast<std::size_t>(scaled), 1), '#');
}

std::string wrapped(std::string_view lead, std::string_view text, std::size_t indent,
                    std::size_t width) {
  std::string result(lead);
  std::size_t column = columns_of(lead);
  bool first = true;
  while (true) {
    const std::size_t start = text.find_first_not_of(' ');
    if (start == std::string_view::npos) break;
    text.remove_prefix(start);
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(word.size());
    const std::size_t columns = columns_of(word);
    if (!first && column + 1 + columns > width) {
      result += '\n';
      result.append(indent, ' ');
      column = indent;
    } else if (!first) {
      result += ' ';
      ++column;
    }
    result += word;
    column += columns;
    first = false;
  }
  result += '\n';
  return result;
}

std::string shortened(std::string_view text, std::size_t columns) {
  const std::size_t length = columns_of(text);
  if (length <= columns) return std::string(text);
  if (columns <= 2) return std::string(columns, '.');
  const std::size_t behind = (columns - 2) / 3;
  const std::size_t before = columns - 2 - behind;
  return fmt::format("{}..{}", text.substr(0, offset_of(text, before)),
                     text.substr(offset_of(text, length - behind)));
}

std::string cell(std::string_view text, std::size_t columns) {
  std::string filled = shortened(text, columns);
  filled.append(columns - columns_of(filled), ' ');
  return filled;
}

std::size_t columns_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), starts_character));
}

}  // namespace conclave::apps
