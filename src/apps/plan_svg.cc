// The chart of a sweep; plan_svg_cluster.cc draws the cluster.
#include "apps/plan_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "apps/svg_text.h"

namespace conclave::apps {
namespace {

constexpr double kWidth = 760.0;
constexpr double kHeight = 440.0;
constexpr double kLeft = 76.0;
constexpr double kRight = 728.0;
constexpr double kTop = 76.0;
constexpr double kBottom = 372.0;
// More points than this get no numbers beside them: they would cover each other.
constexpr std::size_t kNumberedPointsMax = 16;

struct Axes {
  std::vector<double> x_ticks;
  std::vector<double> y_ticks;
  double x_low = 0.0;
  double x_high = 1.0;
  bool logarithmic = false;

  double x(double value) const {
    const double low = logarithmic ? std::log2(x_low) : x_low;
    const double high = logarithmic ? std::log2(x_high) : x_high;
    const double at = logarithmic ? std::log2(value) : value;
    // A margin on both sides keeps the first and the last point off the frame.
    return kLeft + 28.0 + (kRight - kLeft - 56.0) * (high > low ? (at - low) / (high - low) : 0.5);
  }
  double y(double value) const {
    return kBottom -
           (kBottom - kTop) * (value - y_ticks.front()) / (y_ticks.back() - y_ticks.front());
  }
};

std::vector<SweepPoint> drawable(std::span<const SweepPoint> points) {
  std::vector<SweepPoint> kept;
  for (const SweepPoint& point : points) {
    if (!std::isfinite(point.x) || !std::isfinite(point.tokens_per_second)) continue;
    kept.push_back(point);
    kept.back().tokens_per_second = std::max(0.0, point.tokens_per_second);
  }
  std::ranges::stable_sort(kept, {}, &SweepPoint::x);
  return kept;
}

// Most points in the lower quarter of the range: they were chosen by factors, not by steps.
bool grows_by_factors(std::span<const SweepPoint> points) {
  if (points.size() < 4 || points.front().x <= 0.0) return false;
  return points.back().x >= 8.0 * points.front().x &&
         points[points.size() / 2].x <= points.back().x / 4.0;
}

std::vector<double> x_ticks_of(std::span<const SweepPoint> points, bool logarithmic) {
  if (logarithmic) {
    std::vector<double> ticks;
    const double last = std::floor(std::log2(points.back().x) + 1e-9);
    const double first = std::ceil(std::log2(points.front().x) - 1e-9);
    const double stride = std::max(1.0, std::ceil((last - first) / 12.0));
    for (double i = first; i <= last; i += stride) ticks.push_back(std::exp2(i));
    return ticks;
  }
  const double low = points.front().x;
  const double high = points.back().x;
  std::vector<double> ticks = round_ticks(low, high, 8);
  // Half a machine is not for sale.
  const bool whole =
      std::ranges::all_of(points, [](const SweepPoint& p) { return p.x == std::floor(p.x); });
  if (low == high) return {low};
  if (whole && ticks[1] - ticks[0] < 1.0) {
    ticks.clear();
    for (double i = low; i <= high; i += 1.0) ticks.push_back(i);
  }
  const double slack = (high - low) * 1e-9;
  std::erase_if(ticks,
                [low, high, slack](double t) { return t < low - slack || t > high + slack; });
  return ticks;
}

Axes axes_of(std::span<const SweepPoint> points) {
  Axes axes;
  axes.logarithmic = grows_by_factors(points);
  axes.x_low = points.front().x;
  axes.x_high = points.back().x;
  axes.x_ticks = x_ticks_of(points, axes.logarithmic);
  double fastest = 0.0;
  for (const SweepPoint& point : points) fastest = std::max(fastest, point.tokens_per_second);
  // Room above the highest point for its number.
  axes.y_ticks = round_ticks(0.0, fastest > 0.0 ? fastest * 1.08 : 1.0, 5);
  return axes;
}

std::string grid(const Axes& axes, std::string_view x_label) {
  std::string svg;
  auto out = std::back_inserter(svg);
  const double y_step = axes.y_ticks[1] - axes.y_ticks[0];
  for (const double tick : axes.y_ticks) {
    const std::string y = svg_number(axes.y(tick));
    fmt::format_to(out, "<line class=\"{}\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>\n",
                   tick == 0.0 ? "axis" : "grid", kLeft, kRight, y, y);
    fmt::format_to(out,
                   "<text class=\"small muted\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
                   kLeft - 10, svg_number(axes.y(tick) + 4), tick_text(tick, y_step));
  }
  const double x_step = axes.x_ticks.size() > 1 ? axes.x_ticks[1] - axes.x_ticks[0] : 0.0;
  for (const double tick : axes.x_ticks) {
    const std::string x = svg_number(axes.x(tick));
    fmt::format_to(out, "<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>\n", x, x,
                   kBottom, kBottom + 5);
    const std::string text =
        axes.logarithmic || x_step == 0.0 ? fmt::format("{:g}", tick) : tick_text(tick, x_step);
    fmt::format_to(
        out, "<text class=\"small muted\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", x,
        kBottom + 21, text);
  }
  fmt::format_to(out,
                 "<text class=\"small muted\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                 (kLeft + kRight) / 2, kBottom + 46, svg_escape(x_label));
  fmt::format_to(out, "<text class=\"small muted\" x=\"{}\" y=\"{}\">tokens per second</text>\n",
                 24, kTop - 14);
  return svg;
}

std::string speed_text(double tokens_per_second) {
  return fmt::format("{:.{}f}", tokens_per_second, tokens_per_second < 100.0 ? 1 : 0);
}

std::string curve(const Axes& axes, std::span<const SweepPoint> points) {
  std::string line;
  std::string dots;
  auto out = std::back_inserter(dots);
  std::string_view last_label;
  for (const SweepPoint& point : points) {
    const double x = axes.x(point.x);
    const double y = axes.y(point.tokens_per_second);
    line += fmt::format("{}{} {}", line.empty() ? "M" : " L", svg_number(x), svg_number(y));
    fmt::format_to(
        out,
        "<g><title>{:g}: {} tok/s{}{}</title><circle class=\"dot\" cx=\"{}\" cy=\"{}\" r=\"{}\"/>",
        point.x, speed_text(point.tokens_per_second), point.label.empty() ? "" : ", ",
        svg_escape(point.label), svg_number(x), svg_number(y),
        points.size() > kNumberedPointsMax ? 3 : 5);
    if (points.size() <= kNumberedPointsMax) {
      fmt::format_to(out, "<text class=\"name\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                     svg_number(x), svg_number(y - 12), speed_text(point.tokens_per_second));
    }
    if (point.label != last_label) {
      // Near the bottom there is no room below the point.
      const bool below = y < kBottom - 26.0;
      fmt::format_to(
          out, "<text class=\"small muted\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
          svg_number(x), svg_number(below ? y + 22 : y - 28), svg_fit(point.label, 16));
      last_label = point.label;
    }
    dots += "</g>\n";
  }
  if (points.size() < 2) return dots;
  return fmt::format("<path class=\"line\" d=\"{}\"/>\n", line) + dots;
}

std::string description_of(std::string_view x_label, std::span<const SweepPoint> points) {
  if (points.empty()) return "No point to draw.";
  std::string text = fmt::format("Tokens per second over {}.", x_label);
  for (const SweepPoint& point : points.first(std::min(points.size(), kNumberedPointsMax))) {
    text += fmt::format(" {:g}: {}.", point.x, speed_text(point.tokens_per_second));
  }
  return text;
}

}  // namespace

std::string svg_sweep(std::string_view title, std::string_view x_label,
                      std::span<const SweepPoint> points) {
  const std::vector<SweepPoint> kept = drawable(points);
  std::string svg = svg_begin(kWidth, kHeight, title, description_of(x_label, kept));
  svg += fmt::format("<text class=\"title\" x=\"24\" y=\"36\">{}</text>\n", svg_fit(title, 72));
  if (kept.empty()) {
    svg += fmt::format(
        "<text class=\"muted\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">no point to draw</text>\n",
        kWidth / 2, kHeight / 2);
    return svg + "</svg>\n";
  }
  const Axes axes = axes_of(kept);
  return svg + grid(axes, x_label) + curve(axes, kept) + "</svg>\n";
}

}  // namespace conclave::apps
