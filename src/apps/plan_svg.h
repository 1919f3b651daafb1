// Drawings of `conclave plan --svg`: self-contained SVG for light and dark pages, without scripts.
// All text from outside is escaped; numbers that are not finite are left out.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "plan/plan.h"

namespace conclave::apps {

struct SweepPoint {
  double x = 0.0;  // machines, or streams
  double tokens_per_second = 0.0;
  std::string label;  // "slice"; shown where it differs from the point before
};

// Tokens per second over x, points in any order. An x that doubles from point to point (batch 1, 2,
// 4 ... 64) gets a logarithmic axis.
std::string svg_sweep(std::string_view title, std::string_view x_label,
                      std::span<const SweepPoint> points);

inline constexpr std::size_t kDrawnMachinesMax = 12;  // more are grouped by kind
inline constexpr std::size_t kDrawnMeshMax = 8;       // more are drawn around their link

// The machines, what each one's memory holds, and the links between them. `plan` is of `cluster`.
std::string svg_cluster(const plan::Cluster& cluster, const plan::Plan& plan);

}  // namespace conclave::apps
