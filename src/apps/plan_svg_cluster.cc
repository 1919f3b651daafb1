// The cluster as boxes and cables; plan_svg.cc draws the chart of a sweep.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "apps/plan_svg.h"
#include "apps/svg_text.h"

namespace conclave::apps {
namespace {

using plan::Cluster;
using plan::Link;
using plan::Machine;
using plan::Plan;
using plan::Rank;
using plan::Topology;

constexpr double kBoxWidth = 208.0;
constexpr double kBoxHeight = 88.0;
constexpr double kMargin = 24.0;
constexpr double kHeader = 92.0;  // title and caption
constexpr double kFooter = 60.0;  // legend
constexpr double kHubWidth = 190.0;
constexpr double kHubHeight = 46.0;
// The classes `name` and `small`; the latter is not bold, and so a tenth narrower than it is high.
constexpr double kNameFont = 13.0;
constexpr double kSmallFont = 11.5 * 0.9;
// More kinds than this: the smallest groups are drawn as one.
constexpr std::size_t kGroupsMax = kDrawnMachinesMax;

// One box: a machine, or all machines of one kind.
struct Box {
  std::string name;
  std::string title;
  std::size_t count = 0;
  std::size_t n_used = 0;
  bool head = false;
  // Sums over the machines of the box.
  double memory = 0.0;
  double weights = 0.0;
  double kv = 0.0;
  double backup = 0.0;
  double free = 0.0;
  double share = 0.0;
  double x = 0.0;  // centre
  double y = 0.0;
};

struct Cable {
  std::size_t a = 0;
  std::size_t b = 0;
  const Link* link = nullptr;
};

void add(double& sum, double value) {
  if (std::isfinite(value)) sum += value;
}

void add_machine(Box& box, const Machine& machine, const Rank* rank) {
  ++box.count;
  add(box.memory, machine.memory_bytes);
  add(box.free, rank == nullptr ? machine.usable_bytes : rank->free_bytes);
  if (rank == nullptr) return;
  ++box.n_used;
  add(box.weights, rank->weight_bytes);
  add(box.kv, rank->kv_bytes);
  add(box.backup, rank->backup_bytes);
  add(box.share, rank->share);
}

std::vector<Box> machine_boxes(const Cluster& cluster, std::span<const Rank* const> ranks) {
  std::vector<Box> boxes;
  for (std::size_t i = 0; i < cluster.pool.machines.size(); ++i) {
    const Machine& machine = cluster.pool.machines[i];
    Box& box = boxes.emplace_back();
    box.name = machine.name;
    box.title = machine.title;
    box.head = i == 0;
    add_machine(box, machine, ranks[i]);
  }
  return boxes;
}

// Kinds in the order of their first machine.
std::vector<Box> kind_boxes(const Cluster& cluster, std::span<const Rank* const> ranks) {
  std::vector<Box> boxes;
  std::map<std::tuple<std::string, plan::DeviceClass, double, double>, std::size_t> kinds;
  for (std::size_t i = 0; i < cluster.pool.machines.size(); ++i) {
    const Machine& machine = cluster.pool.machines[i];
    const auto [at, is_new] = kinds.try_emplace(
        {machine.title, machine.device, machine.memory_bytes, machine.peak_bandwidth},
        boxes.size());
    const std::size_t kind = std::min(at->second, kGroupsMax - 1);
    if (is_new && boxes.size() < kGroupsMax) {
      Box& box = boxes.emplace_back();
      box.title = machine.title.empty() ? machine.name : machine.title;
      box.head = i == 0;
    } else if (is_new) {
      boxes[kind].title = "of several kinds";
    }
    add_machine(boxes[kind], machine, ranks[i]);
  }
  for (Box& box : boxes) {
    box.name = box.count == 1 ? "1 machine" : fmt::format("{} machines", box.count);
  }
  return boxes;
}

// Up to eight on an ellipse, so that no cable of a mesh runs behind a third machine; more around
// the edge of a grid four wide.
void lay_out(std::vector<Box>& boxes) {
  const std::size_t n = boxes.size();
  if (n <= kDrawnMeshMax) {
    constexpr std::array<double, kDrawnMeshMax + 1> kRadiusX = {0,   0,   250, 260, 310,
                                                                350, 370, 380, 400};
    constexpr std::array<double, kDrawnMeshMax + 1> kRadiusY = {0,   0,   0,   125, 150,
                                                                195, 180, 225, 235};
    const auto count = static_cast<double>(n);
    // An even number stands with a flat side up, an odd one on two feet.
    const double first = -0.5 - (n % 2 == 0 ? 1.0 / count : 0.0);
    for (std::size_t i = 0; i < n; ++i) {
      const double angle = std::numbers::pi * (first + 2.0 * static_cast<double>(i) / count);
      boxes[i].x = kRadiusX[n] * std::cos(angle);
      boxes[i].y = kRadiusY[n] * std::sin(angle);
    }
    return;
  }
  // Clockwise from the upper left corner of 4 x 4 places.
  constexpr std::array<std::pair<int, int>, 12> kPlaces = {{{0, 0},
                                                            {1, 0},
                                                            {2, 0},
                                                            {3, 0},
                                                            {3, 1},
                                                            {3, 2},
                                                            {3, 3},
                                                            {2, 3},
                                                            {1, 3},
                                                            {0, 3},
                                                            {0, 2},
                                                            {0, 1}}};
  for (std::size_t i = 0; i < n; ++i) {
    const auto [column, row] = kPlaces[std::min(i, kPlaces.size() - 1)];
    boxes[i].x = (column - 1.5) * (kBoxWidth + 36.0);
    boxes[i].y = (row - 1.5) * (kBoxHeight + 40.0);
  }
}

std::string duration_text(double seconds) {
  const double us = seconds * 1e6;
  if (!std::isfinite(us)) return "?";
  if (us < 1000.0) return fmt::format("{:.3g} \u00b5s", us);
  return fmt::format("{:.3g} ms", us / 1e3);
}

std::string link_name(const Link& link) { return link.title.empty() ? link.name : link.title; }

std::string bytes_text(double bytes) {
  const double gb = bytes / 1e9;
  return fmt::format("{:.{}f}", gb, gb < 10.0 ? 1 : 0);
}

// "no link" is what a pool of named pairs has between the others.
std::vector<Cable> cables_of(const Cluster& cluster, bool grouped) {
  std::vector<Cable> cables;
  if (grouped) return cables;
  const plan::Pool& pool = cluster.pool;
  const std::size_t n = pool.machines.size();
  std::map<std::pair<std::size_t, std::size_t>, const Link*> named;
  for (const plan::PairLink& pair : pool.pairs) named[std::minmax(pair.a, pair.b)] = &pair.link;
  const bool mesh = pool.topology == Topology::kMesh && n <= kDrawnMeshMax;
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      const auto own = named.find({a, b});
      const bool neighbours = b == a + 1 || (a == 0 && b + 1 == n);
      const bool joined = mesh || n == 2 || (pool.topology == Topology::kRing && neighbours);
      if (own != named.end()) {
        cables.push_back({a, b, own->second});
      } else if (joined && pool.link) {
        cables.push_back({a, b, &*pool.link});
      }
    }
  }
  return cables;
}

std::string pill(double x, double y, std::string_view first, std::string_view second) {
  const double top = y - kHubHeight / 2.0;
  return fmt::format(
      "<rect class=\"pill\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"10\"/>\n"
      "<text class=\"name\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n"
      "<text class=\"small muted\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
      svg_number(x - kHubWidth / 2.0), svg_number(top), kHubWidth, kHubHeight, svg_number(x),
      svg_number(top + 20.0), svg_fit_width(first, kHubWidth - 20.0, kNameFont), svg_number(x),
      svg_number(top + 36.0), svg_fit_width(second, kHubWidth - 20.0, kSmallFont));
}

// "tb5-rdma, 6 us" on the cable; away from the middle when others cross there.
std::string cable_label(const Cable& cable, const Box& a, const Box& b, bool crossed) {
  const std::string text =
      fmt::format("{}, {}", cable.link->name, duration_text(cable.link->latency_seconds));
  const double length = std::max(1.0, std::hypot(b.x - a.x, b.y - a.y));
  const double from_middle = std::abs(a.x * b.y - a.y * b.x) / length;
  const double at = crossed && from_middle < kHubHeight ? 0.3 : 0.5;
  const double x = a.x + at * (b.x - a.x);
  const double y = a.y + at * (b.y - a.y);
  constexpr double kTextMax = 168.0;
  const double width = 16.0 + std::min(kTextMax, svg_width(text, kSmallFont));
  return fmt::format(
      "<rect class=\"pill\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"20\" rx=\"10\"/>"
      "<text class=\"small muted\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
      svg_number(x - width / 2.0), svg_number(y - 10.0), svg_number(width), svg_number(x),
      svg_number(y + 4.0), svg_fit_width(text, kTextMax, kSmallFont));
}

std::string line_between(double ax, double ay, double bx, double by) {
  return fmt::format("<line class=\"cable\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>\n",
                     svg_number(ax), svg_number(ay), svg_number(bx), svg_number(by));
}

std::string_view topology_words(Topology topology, bool through_hub) {
  switch (topology) {
    case Topology::kSwitch:
      return through_hub ? "switch" : "cable";
    case Topology::kMesh:
      return "every pair";
    case Topology::kRing:
      return "ring";
  }
  return "";
}

// Cables, then the link's name in the middle: on its switch, or on the free spot of mesh and ring.
std::string links(const Cluster& cluster, const std::vector<Box>& boxes, bool grouped) {
  std::string svg;
  const plan::Pool& pool = cluster.pool;
  const std::vector<Cable> cables = cables_of(cluster, grouped);
  const bool several = boxes.size() > 2 || grouped;
  const bool hub = several && pool.link &&
                   (grouped || pool.topology == Topology::kSwitch ||
                    (pool.topology == Topology::kMesh && boxes.size() > kDrawnMeshMax));
  // A single group stands in the middle; its switch stands below.
  const double hub_y = boxes.size() == 1 ? kBoxHeight + 20.0 : 0.0;
  if (hub) {
    for (const Box& box : boxes) svg += line_between(box.x, box.y, 0.0, hub_y);
  }
  for (const Cable& cable : cables) {
    svg += line_between(boxes[cable.a].x, boxes[cable.a].y, boxes[cable.b].x, boxes[cable.b].y);
  }
  if (pool.link && pool.machines.size() > 1) {
    const std::string below =
        fmt::format("{}, {}", topology_words(pool.topology, hub || boxes.size() > 2),
                    duration_text(pool.link->latency_seconds));
    svg += pill(0.0, hub_y, link_name(*pool.link), below);
  }
  for (const Cable& cable : cables) {
    if (pool.link && cable.link == &*pool.link) continue;
    svg += cable_label(cable, boxes[cable.a], boxes[cable.b], several);
  }
  return svg;
}

std::string memory_bar(const Box& box, double left, double top, double width) {
  constexpr double kBarHeight = 12.0;
  std::string svg =
      fmt::format("<rect class=\"system\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"2\"/>",
                  svg_number(left), svg_number(top), svg_number(width), kBarHeight);
  const double total =
      std::max(box.memory, box.weights + box.kv + box.backup + std::max(0.0, box.free));
  if (!(total > 0.0)) return svg;
  const std::array<std::pair<std::string_view, double>, 4> pieces = {
      {{"weights", box.weights}, {"kv", box.kv}, {"backup", box.backup}, {"free", box.free}}};
  double x = left;
  for (const auto& [name, bytes] : pieces) {
    const double piece = width * std::max(0.0, bytes) / total;
    // Narrower than a tenth of a pixel: nobody could see it.
    if (!(piece >= 0.1)) continue;
    svg += fmt::format("<rect class=\"{}\" x=\"{:.2f}\" y=\"{}\" width=\"{:.2f}\" height=\"{}\"/>",
                       name, x, svg_number(top), piece, kBarHeight);
    x += piece;
  }
  return svg;
}

std::string tooltip(const Box& box) {
  return fmt::format(
      "{}: {}; share {:.1f} %; weights {} GB, KV cache {} GB, backup {} GB, free {} GB of {} GB",
      box.name, box.title, 100.0 * box.share, bytes_text(box.weights), bytes_text(box.kv),
      bytes_text(box.backup), bytes_text(box.free), bytes_text(box.memory));
}

std::string box_text(std::string_view style, double x, double y, std::string_view anchor,
                     std::string_view escaped) {
  return fmt::format("<text class=\"{}\" x=\"{}\" y=\"{}\" text-anchor=\"{}\">{}</text>", style,
                     svg_number(x), svg_number(y), anchor, escaped);
}

// What stands in the lower right corner.
std::string role_of(const Box& box) {
  if (box.n_used == 0) return "not used";
  if (box.n_used < box.count) return fmt::format("{} used", box.n_used);
  if (!box.head) return {};
  return box.count > 1 ? "with the head" : "head";
}

std::string drawing_of(const Box& box) {
  const double left = box.x - kBoxWidth / 2.0 + 12.0;
  const double right = box.x + kBoxWidth / 2.0 - 12.0;
  const double top = box.y - kBoxHeight / 2.0;
  const bool used = box.n_used > 0;
  const std::string_view name_style = used ? "name" : "name muted";
  const std::string share = used ? fmt::format("{:.0f} %", 100.0 * box.share) : std::string();
  const std::string held = used ? bytes_text(box.weights + box.kv + box.backup) + " of " : "";
  const double gap = used ? 10.0 : 0.0;
  const double name_width = right - left - gap - svg_width(share, kNameFont);
  std::string svg = fmt::format("<g><title>{}</title>", svg_escape(tooltip(box)));
  // Opaque: it hides the cables that end in its middle.
  svg += fmt::format(
      "<rect class=\"box{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"9\"/>",
      used ? "" : " unused", svg_number(left - 12.0), svg_number(top), kBoxWidth, kBoxHeight);
  svg += box_text(name_style, left, top + 22.0, "start",
                  svg_fit_width(box.name, name_width, kNameFont));
  svg += box_text(name_style, right, top + 22.0, "end", share);
  svg += box_text("small muted", left, top + 39.0, "start",
                  svg_fit_width(box.title, right - left, kSmallFont));
  svg += memory_bar(box, left, top + 48.0, right - left);
  svg += box_text("small muted", left, top + 77.0, "start",
                  fmt::format("{}{} GB", held, bytes_text(box.memory)));
  svg += box_text("small muted", right, top + 77.0, "end", role_of(box));
  return svg + "</g>\n";
}

std::string legend(double left, double y) {
  const std::array<std::pair<std::string_view, std::string_view>, 5> entries = {
      {{"weights", "weights"},
       {"kv", "KV cache"},
       {"backup", "backup slices"},
       {"free", "free"},
       {"system", "not usable"}}};
  std::string svg;
  double x = left;
  for (const auto& [name, words] : entries) {
    svg += fmt::format(
        "<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" rx=\"2\"/>"
        "<text class=\"small muted\" x=\"{}\" y=\"{}\">{}</text>\n",
        name, svg_number(x), svg_number(y - 10.0), svg_number(x + 18.0), svg_number(y), words);
    x += 44.0 + 6.4 * static_cast<double>(words.size());
  }
  return svg;
}

std::string speed_text(double tokens_per_second) {
  if (!std::isfinite(tokens_per_second)) return "? tok/s";
  return fmt::format("{:.{}f} tok/s", tokens_per_second, tokens_per_second < 100.0 ? 1 : 0);
}

std::string caption_of(const Cluster& cluster, const Plan& plan) {
  std::string speed = speed_text(plan.prediction.tokens_per_second);
  if (cluster.workload.batch > 1) {
    speed += fmt::format(" for {} streams, {} alone", cluster.workload.batch,
                         speed_text(plan.single.tokens_per_second));
  }
  return fmt::format("{} ({}) \u00b7 {} \u00b7 {} \u00b7 survives {} loss{}",
                     cluster.model.architecture.name, cluster.model.quant.name,
                     plan::name_of(plan.placement.strategy), speed, plan.placement.losses_survived,
                     plan.placement.losses_survived == 1 ? "" : "es");
}

}  // namespace

std::string svg_cluster(const Cluster& cluster, const Plan& plan) {
  std::vector<const Rank*> ranks(cluster.pool.machines.size(), nullptr);
  for (const Rank& rank : plan.placement.ranks) {
    if (rank.machine < ranks.size()) ranks[rank.machine] = &rank;
  }
  const bool grouped = ranks.size() > kDrawnMachinesMax;
  std::vector<Box> boxes = grouped ? kind_boxes(cluster, ranks) : machine_boxes(cluster, ranks);
  lay_out(boxes);
  const std::string caption = caption_of(cluster, plan);
  // Half of what the caption needs at about 7.2 pixels a character.
  double right = std::clamp(3.6 * static_cast<double>(caption.size()), 250.0, 500.0);
  double top = -kBoxHeight / 2.0;
  double bottom = grouped && boxes.size() == 1 ? 1.5 * kBoxHeight + 20.0 : kBoxHeight / 2.0;
  for (const Box& box : boxes) {
    right = std::max(right, std::abs(box.x) + kBoxWidth / 2.0);
    top = std::min(top, box.y - kBoxHeight / 2.0);
    bottom = std::max(bottom, box.y + kBoxHeight / 2.0);
  }
  const double width = 2.0 * (right + kMargin);
  const double height = kHeader + (bottom - top) + kFooter;
  const std::string_view name = plan.cluster.empty() ? std::string_view("cluster") : plan.cluster;
  std::string description = caption + ".";
  for (const Box& box : boxes) description += " " + tooltip(box) + ".";
  std::string svg = svg_begin(width, height, name, description);
  svg += fmt::format("<text class=\"title\" x=\"{0}\" y=\"38\">{1}</text>\n", kMargin,
                     svg_fit(name, 60));
  svg += fmt::format("<text class=\"muted\" font-size=\"13.5\" x=\"{0}\" y=\"60\">{1}</text>\n",
                     kMargin, svg_escape(caption));
  svg += fmt::format("<g transform=\"translate({} {})\">\n", svg_number(width / 2.0),
                     svg_number(kHeader - top));
  svg += links(cluster, boxes, grouped);
  for (const Box& box : boxes) svg += drawing_of(box);
  return svg + "</g>\n" + legend(kMargin, height - 24.0) + "</svg>\n";
}

}  // namespace conclave::apps
