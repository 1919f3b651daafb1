#include "apps/plan_tables.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "apps/plan_format.h"
#include "apps/plan_json.h"
#include "apps/plan_report.h"

namespace conclave::apps {
namespace {

constexpr std::size_t kNoteIndent = 2;

std::size_t clamped(std::size_t columns) {
  return std::clamp(columns, kReportColumnsMin, kReportColumns);
}

// Below a table: why a row has dashes.
std::string notes(std::span<const Row> rows, std::size_t columns) {
  std::string text;
  for (const Row& row : rows) {
    if (row.outcome.fits()) continue;
    text += wrapped(fmt::format("{}: ", row.name), missing_text(row.outcome), kNoteIndent,
                    clamped(columns));
  }
  return text.empty() ? text : "\n" + text;
}

// The figures that every table ends with.
std::string figures_heading() {
  return fmt::format("{:<9} {:>8} {:>8} {:>9} {:>7} {:>6} {:>8}", "strategy", "tok/s", "each",
                     "1st token", "W", "J/tok", "USD/Mtok");
}

std::string figures(const Outcome& outcome) {
  if (!outcome.fits()) return fmt::format("{:<9} {:>8}", "no fit", "-");
  const plan::Prediction& p = outcome.plan->prediction;
  return fmt::format("{:<9} {:>8} {:>8} {:>9} {:>7} {:>6} {:>8}",
                     plan::name_of(outcome.plan->placement.strategy), figure(p.tokens_per_second),
                     figure(p.stream_tokens_per_second), duration(p.first_token_seconds),
                     figure(p.watts), figure(p.joules_per_token), figure(p.usd_per_million_tokens));
}

std::string subtitle(const plan::Cluster& cluster, std::size_t columns) {
  return wrapped("",
                 fmt::format("{}: {} ({}), {}", cluster.name, cluster.model.architecture.name,
                             cluster.model.quant.name, cluster.software.name),
                 0, clamped(columns));
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

std::string list_text(const plan::Catalogue& catalogue) {
  std::string text =
      fmt::format("{:<18} {:<34} {:>8} {:>7} {:>8}\n", "MACHINES", "", "GB usable", "GB/s", "USD");
  for (const plan::Machine& machine : catalogue.machines) {
    text += fmt::format("{:<18} {:<34.34} {:>9} {:>7.0f} {:>8}\n", machine.name, machine.title,
                        gigabytes(machine.usable_bytes), machine.peak_bandwidth / 1e9,
                        figure(machine.price_usd));
  }
  text += fmt::format("\n{:<18} {:<34} {:>9} {:>7}\n", "LINKS", "", "us", "GB/s");
  for (const plan::Link& link : catalogue.links) {
    text += fmt::format("{:<18} {:<34.34} {:>9.1f} {:>7.2f}\n", link.name, link.title,
                        link.latency_seconds * 1e6, link.bandwidth / 1e9);
  }
  text += "\nMODELS and their quantisations, the default first\n";
  for (const plan::CatalogueModel& model : catalogue.models) {
    text += wrapped(fmt::format("{:<18} ", model.architecture.name),
                    fmt::format("{}: {}", model.title, quant_names(model)), 19, kReportColumnsMin);
  }
  text += "\nSOFTWARE\n";
  for (const plan::Software& software : catalogue.software) {
    text += fmt::format("{:<18} {}\n", software.name, software.title);
  }
  return text;
}

std::string compare_text(std::span<const Row> rows, std::size_t columns) {
  std::string text = fmt::format("{:<17} {}\n", "cluster", figures_heading());
  for (const Row& row : rows) {
    text += fmt::format("{:<17.17} {}\n", row.name, figures(row.outcome));
  }
  text += "\n";
  for (const Row& row : rows) {
    const plan::Cluster& cluster = row.outcome.cluster;
    text += wrapped(
        fmt::format("{}: ", row.name),
        fmt::format("{}; {}; {} ({}), {}, batch {}", machines_text(cluster.pool),
                    links_text(cluster.pool), cluster.model.architecture.name,
                    cluster.model.quant.name, cluster.software.name, cluster.workload.batch),
        kNoteIndent, clamped(columns));
    if (row.outcome.fits()) {
      text += wrapped("  limit: ", row.outcome.plan->explanation.constraint, 2 * kNoteIndent,
                      clamped(columns));
    }
  }
  return text + notes(rows, columns);
}

std::string sweep_text(const Sweep& sweep, std::span<const Row> rows, std::size_t columns) {
  if (rows.empty()) return "";
  std::string text = subtitle(rows[0].outcome.cluster, columns);
  text += fmt::format("\n{:>9} {:>5} {}\n", name_of(sweep.key), "used", figures_heading());
  for (const Row& row : rows) {
    const std::size_t used = machines_used(row.outcome);
    text += fmt::format("{:>9} {:>5} {}\n", row.name, used == 0 ? "-" : fmt::format("{}", used),
                        figures(row.outcome));
  }
  return text + notes(rows, columns);
}

std::string what_if_text(std::span<const Row> rows, std::size_t columns) {
  if (rows.empty()) return "";
  const Outcome& before = rows[0].outcome;
  std::string text = subtitle(before.cluster, columns);
  text += fmt::format("\n{:<30} {:<22} {:>17} {:>6}\n", "what if", "strategy", "tok/s", "times");
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
    text += fmt::format("{:<30.30} {:<22} {:>17} {:>6}\n", row.name,
                        fmt::format("{} -> {}", strategy(before), strategy(row.outcome)),
                        fmt::format("{} -> {}", rate(before), rate(row.outcome)), times);
  }
  text += fmt::format("\n{:<18} {}\n", "", figures_heading());
  for (const Row& row : rows) text += fmt::format("{:<18.18} {}\n", row.name, figures(row.outcome));
  return text + notes(rows, columns);
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
