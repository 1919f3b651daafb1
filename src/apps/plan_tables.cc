#include "apps/plan_tables.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "apps/plan_format.h"
#include "apps/plan_json.h"
#include "apps/plan_report.h"

namespace conclave::apps {
namespace {

constexpr std::size_t kNoteIndent = 2;

// Below a table: why a row has dashes.
std::string notes(std::span<const Row> rows, std::size_t columns) {
  std::string text;
  for (const Row& row : rows) {
    if (row.outcome.fits()) continue;
    text += wrapped(fmt::format("{}: ", row.name), missing_text(row.outcome), kNoteIndent,
                    report_width(columns));
  }
  return text.empty() ? text : "\n" + text;
}

// The figures that every table ends with.
struct Figure {
  std::string_view heading;
  std::size_t width;
  std::size_t rank;  // where columns are short, the figures of the highest rank go first
};
constexpr std::array<Figure, 7> kFigures = {{{"strategy", 9, 0},
                                             {"tok/s", 8, 0},
                                             {"each", 8, 1},
                                             {"1st token", 9, 0},
                                             {"W", 7, 2},
                                             {"J/tok", 6, 3},
                                             {"USD/Mtok", 8, 0}}};
using FigureTexts = std::array<std::string, kFigures.size()>;

FigureTexts headings() {
  FigureTexts texts;
  for (std::size_t i = 0; i < texts.size(); ++i) texts[i] = kFigures[i].heading;
  return texts;
}

FigureTexts figures(const Outcome& outcome) {
  if (!outcome.fits()) return {"no fit", "-", "", "", "", "", ""};
  const plan::Prediction& p = outcome.plan->prediction;
  return {std::string(plan::name_of(outcome.plan->placement.strategy)),
          figure(p.tokens_per_second),
          figure(p.stream_tokens_per_second),
          duration(p.first_token_seconds),
          figure(p.watts),
          figure(p.joules_per_token),
          figure(p.usd_per_million_tokens)};
}

// A table whose rows are named: names, then as many figures as the columns hold.
class NamedTable {
 public:
  // `columns` for all of it, of which names take `names` to `longest`.
  NamedTable(std::size_t columns, std::size_t names, std::size_t longest) {
    while (rank_ > 0 && width_of_figures() + names > columns) --rank_;
    names_ = std::clamp(longest, names, std::max(names, columns - width_of_figures()));
  }

  std::size_t names() const { return names_; }
  // `name` as it stands in front of the figures.
  std::string line(const std::string& name, const FigureTexts& texts) const {
    std::string text = name;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (kFigures[i].rank > rank_) continue;
      text += i == 0 ? fmt::format(" {:<{}}", texts[i], kFigures[i].width)
                     : fmt::format(" {:>{}}", texts[i], kFigures[i].width);
    }
    return text.substr(0, text.find_last_not_of(' ') + 1) + "\n";
  }

 private:
  std::size_t width_of_figures() const {
    std::size_t width = 0;
    for (const Figure& figure : kFigures) width += figure.rank > rank_ ? 0 : figure.width + 1;
    return width;
  }

  std::size_t rank_ = 3;  // of the figures that are shown at most
  std::size_t names_ = 0;
};

std::size_t longest_name(std::span<const Row> rows) {
  std::size_t longest = 0;
  for (const Row& row : rows) longest = std::max(longest, columns_of(row.name));
  return longest;
}

// Names, and the figures beside them.
std::string figures_table(std::string_view heading, std::span<const Row> rows,
                          std::size_t columns) {
  const NamedTable table(columns, /*names=*/13, longest_name(rows));
  std::string text = table.line(cell(heading, table.names()), headings());
  for (const Row& row : rows) {
    text += table.line(cell(row.name, table.names()), figures(row.outcome));
  }
  return text;
}

std::string subtitle(const plan::Cluster& cluster, std::size_t columns) {
  return wrapped("",
                 fmt::format("{}: {} ({}), {}", cluster.name, cluster.model.architecture.name,
                             cluster.model.quant.name, cluster.software.name),
                 0, report_width(columns));
}

std::string quant_names(const plan::CatalogueModel& model) {
  std::vector<std::string> names;
  for (const plan::Quant& quant : model.quants) {
    names.push_back(fmt::format("{} {} GB", quant.name,
                                gigabytes(plan::stored_bytes({model.architecture, quant}))));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::string list_text(const plan::Catalogue& catalogue, std::size_t columns) {
  const std::size_t width = report_width(columns);
  const std::size_t title = width - 46;
  const auto line = [title](std::string_view name, std::string_view words, std::string_view size,
                            std::string_view rate, std::string_view price) {
    return fmt::format("{:<18} {} {:>9} {:>7} {:>8}\n", name, cell(words, title), size, rate,
                       price);
  };
  std::string text = line("MACHINES", "", "GB usable", "GB/s", "USD");
  for (const plan::Machine& machine : catalogue.machines) {
    text += line(machine.name, machine.title, gigabytes(machine.usable_bytes),
                 fmt::format("{:.0f}", machine.peak_bandwidth / 1e9), figure(machine.price_usd));
  }
  text += "\n" + line("LINKS", "", "us", "GB/s", "");
  for (const plan::Link& link : catalogue.links) {
    text += line(link.name, link.title, fmt::format("{:.1f}", link.latency_seconds * 1e6),
                 fmt::format("{:.2f}", link.bandwidth / 1e9), "");
  }
  text += "\nMODELS and their quantisations, the default first\n";
  for (const plan::CatalogueModel& model : catalogue.models) {
    text += wrapped(fmt::format("{:<18} ", model.architecture.name),
                    fmt::format("{}: {}", model.title, quant_names(model)), 19, width);
  }
  text += "\nSOFTWARE\n";
  for (const plan::Software& software : catalogue.software) {
    text += wrapped(fmt::format("{:<18} ", software.name), software.title, 19, width);
  }
  return text;
}

std::string compare_text(std::span<const Row> rows, std::size_t columns) {
  std::string text = figures_table("cluster", rows, report_width(columns));
  text += '\n';
  for (const Row& row : rows) {
    const plan::Cluster& cluster = row.outcome.cluster;
    text += wrapped(
        fmt::format("{}: ", row.name),
        fmt::format("{}; {}; {} ({}), {}, batch {}", machines_text(cluster.pool),
                    links_text(cluster.pool), cluster.model.architecture.name,
                    cluster.model.quant.name, cluster.software.name, cluster.workload.batch),
        kNoteIndent, report_width(columns));
    if (row.outcome.fits()) {
      text += wrapped("  limit: ", row.outcome.plan->explanation.constraint, 2 * kNoteIndent,
                      report_width(columns));
    }
  }
  return text + notes(rows, columns);
}

std::string sweep_text(const Sweep& sweep, std::span<const Row> rows, std::size_t columns) {
  if (rows.empty()) return "";
  std::string text = subtitle(rows[0].outcome.cluster, columns);
  const NamedTable table(report_width(columns), /*names=*/14, /*longest=*/15);
  const std::size_t value = table.names() - 6;
  text +=
      "\n" + table.line(fmt::format("{:>{}} {:>5}", name_of(sweep.key), value, "used"), headings());
  for (const Row& row : rows) {
    const std::size_t used = machines_used(row.outcome);
    text += table.line(
        fmt::format("{:>{}} {:>5}", row.name, value, used == 0 ? "-" : fmt::format("{}", used)),
        figures(row.outcome));
  }
  return text + notes(rows, columns);
}

std::string what_if_text(std::span<const Row> rows, std::size_t columns) {
  if (rows.empty()) return "";
  const Outcome& before = rows[0].outcome;
  std::string text = subtitle(before.cluster, columns);
  const std::size_t width = report_width(columns);
  const std::size_t rates = width < kTableColumns ? 14 : 17;
  const std::size_t strategies = 21;  // "slice-ra -> pipeline", and a blank
  const std::size_t names =
      std::min(std::max<std::size_t>(longest_name(rows), 13), width - strategies - rates - 9);
  const auto line = [&](std::string_view name, std::string_view strategy, std::string_view rate,
                        std::string_view times) {
    return fmt::format("{} {:<{}} {:>{}} {:>6}\n", cell(name, names), strategy, strategies, rate,
                       rates, times);
  };
  text += "\n" + line("what if", "strategy", "tok/s", "times");
  const auto rate = [](const Outcome& outcome) {
    return outcome.fits() ? figure(outcome.plan->prediction.tokens_per_second) : "no fit";
  };
  const auto strategy = [](const Outcome& outcome) {
    return outcome.fits() ? std::string(plan::name_of(outcome.plan->placement.strategy)) : "-";
  };
  for (const Row& row : rows.subspan(1)) {
    std::string times = "-";
    if (before.fits() && row.outcome.fits()) {
      times = fmt::format("{:.2f}", row.outcome.plan->prediction.tokens_per_second /
                                        before.plan->prediction.tokens_per_second);
    }
    text += line(row.name, fmt::format("{} -> {}", strategy(before), strategy(row.outcome)),
                 fmt::format("{} -> {}", rate(before), rate(row.outcome)), times);
  }
  return text + "\n" + figures_table("", rows, width) + notes(rows, columns);
}

nlohmann::ordered_json rows_json(const std::string& kind, std::span<const Row> rows) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Row& row : rows) list.push_back({{"name", row.name}, {"plan", to_json(row.outcome)}});
  nlohmann::ordered_json json;
  json[kind] = std::move(list);
  return json;
}

std::vector<SweepPoint> sweep_points(const Sweep& sweep, std::span<const Row> rows) {
  std::vector<SweepPoint> points;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].outcome.fits()) continue;
    const plan::Plan& plan = *rows[i].outcome.plan;
    points.push_back({.x = static_cast<double>(sweep.values[i]),
                      .tokens_per_second = plan.prediction.tokens_per_second,
                      .label = std::string(plan::name_of(plan.placement.strategy))});
  }
  return points;
}

std::size_t machines_used(const Outcome& outcome) {
  return outcome.fits() ? outcome.plan->placement.ranks.size() : 0;
}

}  // namespace conclave::apps
