// Small arithmetic that the planner's files share.
#pragma once

#include <algorithm>
#include <cstddef>

namespace conclave::plan {

inline double as_double(std::size_t value) { return static_cast<double>(value); }

inline double ratio(std::size_t part, std::size_t whole) {
  return whole == 0 ? 0.0 : as_double(part) / as_double(whole);
}

// How many of `n_units` a fraction of them holds whole.
inline std::size_t whole_units(double fraction, std::size_t n_units) {
  if (!(fraction > 0.0)) return 0;
  // The small term forgives rounding in the division that made the fraction.
  return static_cast<std::size_t>(std::min(1.0, fraction) * as_double(n_units) + 1e-9);
}

}  // namespace conclave::plan
