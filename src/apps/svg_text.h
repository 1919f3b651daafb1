// Small parts of the drawings: text that is safe in XML, numbers that are finite, one style.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::apps {

// For element content and attribute values. Control characters and broken UTF-8 become U+FFFD:
// XML allows neither, and names come from a user's file.
std::string svg_escape(std::string_view text);

// At most `characters` characters, the last one an ellipsis where text was cut; escaped.
std::string svg_fit(std::string_view text, std::size_t characters);

// The same for text that must stay inside `pixels` at `font_pixels`: widths are those of a wide
// bold face, because a page's reader has a font of their own.
std::string svg_fit_width(std::string_view text, double pixels, double font_pixels);
// What svg_fit_width reckons with.
double svg_width(std::string_view text, double font_pixels);

// A coordinate with one decimal; 0 for what is not finite.
std::string svg_number(double value);

// About `wanted` round numbers (1, 2 or 5 times a power of ten) from at most `low` to at least
// `high`. Never empty; low == high gives a range around it.
std::vector<double> round_ticks(double low, double high, std::size_t wanted);

// 1250 -> "1250", 0.25 -> "0.25": as many decimals as `step` needs.
std::string tick_text(double value, double step);

// "<svg ...>" with title, description and style; the drawing ends with "</svg>\n".
std::string svg_begin(double width, double height, std::string_view title,
                      std::string_view description);

}  // namespace conclave::apps
