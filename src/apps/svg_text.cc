#include "apps/svg_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace conclave::apps {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// The bytes of the character at the start of `text`; 0 when they are not one that XML allows.
std::size_t character_bytes(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t first = byte(0);
  if (first < 0x80) return (first >= 0x20 && first != 0x7F) || first == '\t' ? 1 : 0;
  const std::size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < size) return 0;
  std::uint32_t code = first & (0x7Fu >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0u) != 0x80u) return 0;
    code = (code << 6) | (byte(i) & 0x3Fu);
  }
  const bool overlong = code < (size == 2 ? 0x80u : size == 3 ? 0x800u : 0x10000u);
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  const bool control = code >= 0x80 && code < 0xA0;
  return overlong || surrogate || control || code > 0x10FFFF || (code & 0xFFFEu) == 0xFFFEu ? 0
                                                                                            : size;
}

// The text as characters: each one valid, in order.
std::vector<std::string_view> characters_of(std::string_view text) {
  std::vector<std::string_view> characters;
  while (!text.empty()) {
    const std::size_t size = character_bytes(text);
    characters.push_back(size == 0 ? kReplacement : text.substr(0, size));
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return characters;
}

std::string escaped(const std::vector<std::string_view>& characters, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view character = characters[i];
    switch (character.front()) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += character;
    }
  }
  return out;
}

// Of a font's size, at most. Letters of DejaVu Sans Bold, the widest of the usual faces.
double width_of(std::string_view character) {
  if (character.size() >= 3) return 1.05;  // mostly CJK and symbols
  if (character.size() == 2) return 0.78;
  const char c = character.front();
  if (std::string_view("ijlI.,:;'|! ").find(c) != std::string_view::npos) return 0.4;
  if (std::string_view("frt-()[]/").find(c) != std::string_view::npos) return 0.5;
  if (std::string_view("mwMW@%").find(c) != std::string_view::npos) return 1.05;
  return c >= 'A' && c <= 'Z' ? 0.8 : 0.7;
}

// Plain classes and one block for dark pages: custom properties are unknown to many converters.
constexpr std::string_view kStyle = R"(<style>
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1c2733 }
.page { fill: #ffffff }
.title { font-size: 19px; font-weight: 600 }
.name { font-size: 13px; font-weight: 600 }
.small { font-size: 11.5px }
.muted { fill: #5d6b7a }
.grid { stroke: #e6eaef; stroke-width: 1 }
.axis { stroke: #aab4bf; stroke-width: 1 }
.line { stroke: #2563c9; stroke-width: 2.5; fill: none; stroke-linejoin: round }
.dot { fill: #2563c9; stroke: #ffffff; stroke-width: 2 }
.cable { stroke: #9aa6b2; stroke-width: 1.75; fill: none }
.box { fill: #f7f9fb; stroke: #c6ced7; stroke-width: 1 }
.unused { stroke-dasharray: 4 3 }
.pill { fill: #ffffff; stroke: #c6ced7; stroke-width: 1 }
.system { fill: #d3dae1 }
.free { fill: #e9eef3; stroke: #c6ced7; stroke-width: 0.75 }
.weights { fill: #2563c9 }
.kv { fill: #12a07f }
.backup { fill: #e08a1e }
@media (prefers-color-scheme: dark) {
text { fill: #e8edf2 }
.page { fill: #12171d }
.muted { fill: #98a5b3 }
.grid { stroke: #252d36 }
.axis { stroke: #56616d }
.line { stroke: #6ea8ff }
.dot { fill: #6ea8ff; stroke: #12171d }
.cable { stroke: #65717e }
.box { fill: #1a2129; stroke: #3a4551 }
.pill { fill: #12171d; stroke: #3a4551 }
.system { fill: #46515d }
.free { fill: #27303a; stroke: #3a4551 }
.weights { fill: #5b97f5 }
.kv { fill: #2fc4a0 }
.backup { fill: #f0a445 }
}
</style>
)";

}  // namespace

std::string svg_escape(std::string_view text) {
  const std::vector<std::string_view> characters = characters_of(text);
  return escaped(characters, characters.size());
}

std::string svg_fit(std::string_view text, std::size_t characters) {
  const std::vector<std::string_view> all = characters_of(text);
  if (all.size() <= characters) return escaped(all, all.size());
  return escaped(all, characters == 0 ? 0 : characters - 1) + "\u2026";
}

std::string svg_fit_width(std::string_view text, double pixels, double font_pixels) {
  const std::vector<std::string_view> all = characters_of(text);
  constexpr double kEllipsis = 1.0;
  double used = 0.0;
  std::size_t with_ellipsis = 0;  // characters that fit before one
  for (std::size_t i = 0; i < all.size(); ++i) {
    used += width_of(all[i]);
    if ((used + kEllipsis) * font_pixels <= pixels) with_ellipsis = i + 1;
  }
  if (used * font_pixels <= pixels) return escaped(all, all.size());
  return escaped(all, with_ellipsis) + "\u2026";
}

double svg_width(std::string_view text, double font_pixels) {
  double width = 0.0;
  for (const std::string_view character : characters_of(text)) width += width_of(character);
  return width * font_pixels;
}

std::string svg_number(double value) {
  // Far outside any drawing, and "-0.0" is no coordinate that a person would write.
  if (!std::isfinite(value) || std::abs(value) > 1e6) return "0";
  const double tenths = std::round(value * 10.0) / 10.0;
  return fmt::format("{}", tenths == 0.0 ? 0.0 : tenths);
}

std::vector<double> round_ticks(double low, double high, std::size_t wanted) {
  if (!std::isfinite(low) || !std::isfinite(high)) return {0.0, 1.0};
  if (low > high) std::swap(low, high);
  if (!(high - low > 1e-9 * std::max(std::abs(low), std::abs(high)))) {
    const double margin = low == 0.0 ? 1.0 : std::abs(low) / 2.0;
    low -= margin;
    high += margin;
  }
  const double raw = (high - low) / static_cast<double>(std::max<std::size_t>(wanted, 1));
  if (!std::isfinite(raw) || raw < 1e-300) return {0.0, 1.0};
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double factor = raw / power;
  const double step = power * (factor <= 1.0   ? 1.0
                               : factor <= 2.0 ? 2.0
                               : factor <= 5.0 ? 5.0
                                               : 10.0);
  std::vector<double> ticks;
  const double first = std::floor(low / step + 1e-9);
  const double last = std::ceil(high / step - 1e-9);
  for (double i = first; i <= last; i += 1.0) ticks.push_back(i * step);
  return ticks;
}

std::string tick_text(double value, double step) {
  const double digits =
      step > 0.0 && std::isfinite(step) ? -std::floor(std::log10(step) + 1e-9) : 0;
  const int decimals = static_cast<int>(std::clamp(digits, 0.0, 6.0));
  return fmt::format("{:.{}f}", value == 0.0 ? 0.0 : value, decimals);
}

std::string svg_begin(double width, double height, std::string_view title,
                      std::string_view description) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" role=\"img\" aria-labelledby=\"title description\">\n"
      "<title id=\"title\">{2}</title>\n<desc id=\"description\">{3}</desc>\n{4}"
      "<rect class=\"page\" width=\"{0}\" height=\"{1}\" rx=\"10\"/>\n",
      svg_number(width), svg_number(height), svg_escape(title), svg_escape(description), kStyle);
}

}  // namespace conclave::apps
