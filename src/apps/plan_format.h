// Numbers and lines of the planner's reports.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace conclave::apps {

// Three significant digits: "0.123", "12.3", "1,230". "-" when not finite.
std::string figure(double value);
// "594.0": bytes / 1e9 with one decimal, two below 10, three below 0.1.
std::string gigabytes(double bytes);
// "20.2 ms", "2.3 s", "12 us".
std::string duration(double seconds);
// A bar for `share` of `width` columns, at least one column when anything is there.
std::string bar(double share, std::size_t width);
// Lines of at most `width` columns; those after the first start with `indent` blanks. `lead` is
// what stands before the first word. Ends with a newline.
std::string wrapped(std::string_view lead, std::string_view text, std::size_t indent,
                    std::size_t width);
// At most `columns` columns: where text is longer, ".." stands for its middle, because the ends of
// names are what tells them apart ("m4-max-128+12").
std::string shortened(std::string_view text, std::size_t columns);
// The same, filled up with blanks.
std::string cell(std::string_view text, std::size_t columns);
// Columns of UTF-8 text, one for each code point.
std::size_t columns_of(std::string_view text);

}  // namespace conclave::apps
