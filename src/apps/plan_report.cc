#include "apps/plan_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/plan_format.h"

namespace conclave::apps {
namespace {

constexpr std::size_t kIndent = 13;      // of the words beside a heading
constexpr std::size_t kRowsMax = 24;     // of the table of machines
constexpr std::size_t kBarColumns = 30;  // of the whole step
constexpr std::size_t kImprovements = 3;

// "limit        kernel dispatch takes 45 %"
std::string line(std::string_view heading, std::string_view text, std::size_t columns) {
  return wrapped(fmt::format("{:<13}", heading), text, kIndent, columns);
}

std::string title_of(const plan::Machine& machine) {
  return machine.title.empty() ? machine.name : machine.title;
}

std::string header(const Outcome& outcome, std::size_t columns) {
  const plan::Cluster& cluster = outcome.cluster;
  const plan::Workload& load = cluster.workload;
  std::string text = wrapped("", cluster.name, 0, columns);
  text += line("machines", machines_text(cluster.pool), columns);
  text += line("links", links_text(cluster.pool), columns);
  text += line("model",
               fmt::format("{}, {}: {} GB of weights", cluster.model.architecture.name,
                           cluster.model.quant.name, gigabytes(plan::stored_bytes(cluster.model))),
               columns);
  text += line("software",
               cluster.software.title.empty() ? cluster.software.name : cluster.software.title,
               columns);
  std::string work = fmt::format("batch {}, {} tokens of context each, prompts of {}", load.batch,
                                 load.context, load.prompt);
  if (load.speculation.draft_tokens > 0) {
    work += fmt::format(", speculation of {} tokens ({} a step)", load.speculation.draft_tokens,
                        figure(load.speculation.accepted));
  }
  text += line("work", work, columns);
  if (!outcome.notes.empty()) {
    text += line("assumed", fmt::format("{}", fmt::join(outcome.notes, "; ")), columns);
  }
  return text + "\n";
}

// What a row of the machine table says after the name; equal ones are told once.
std::string rank_cells(const plan::Rank& rank) {
  return fmt::format("{:>6.1f} % {:>8} {:>7} {:>7} {:>8}", 100.0 * rank.share,
                     gigabytes(rank.weight_bytes), gigabytes(rank.kv_bytes),
                     gigabytes(rank.backup_bytes), gigabytes(rank.free_bytes));
}
constexpr std::size_t kRankCells = 42;  // columns of the above

struct RankRow {
  std::string name;
  std::size_t count = 1;
  std::string cells;
};

std::vector<RankRow> rank_rows(const plan::Cluster& cluster, const plan::Placement& placement) {
  const bool grouped = placement.ranks.size() > kRowsMax;
  std::vector<RankRow> rows;
  for (const plan::Rank& rank : placement.ranks) {
    std::string cells = rank_cells(rank);
    if (grouped && !rows.empty() && rows.back().cells == cells) {
      ++rows.back().count;
    } else {
      rows.push_back({cluster.pool.machines[rank.machine].name, 1, std::move(cells)});
    }
  }
  return rows;
}

std::string machine_table(const plan::Cluster& cluster, const plan::Placement& placement,
                          std::size_t columns) {
  constexpr std::string_view kHeading = "GB per machine";
  std::vector<RankRow> rows = rank_rows(cluster, placement);
  const std::size_t shown = std::min(rows.size(), kRowsMax);
  std::size_t width = 28;
  for (std::size_t i = 0; i < shown; ++i) {
    if (rows[i].count > 1) rows[i].name = fmt::format("{} x from {}", rows[i].count, rows[i].name);
    width = std::max(width, columns_of(rows[i].name));
  }
  width = std::min(width, columns - kRankCells - 1);
  std::string text = fmt::format("{} {:>8} {:>8} {:>7} {:>7} {:>8}\n", cell(kHeading, width),
                                 "share", "weights", "KV", "backup", "free");
  for (std::size_t i = 0; i < shown; ++i) {
    text += fmt::format("{} {}\n", cell(rows[i].name, width), rows[i].cells);
  }
  if (rows.size() > shown) text += fmt::format("... and {} more rows\n", rows.size() - shown);
  return text;
}

// Machines that hold nothing, by name while they are few.
std::string left_out(const plan::Cluster& cluster, const plan::Placement& placement) {
  std::vector<bool> used(cluster.pool.machines.size());
  for (const plan::Rank& rank : placement.ranks) used[rank.machine] = true;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) names.push_back(cluster.pool.machines[i].name);
  }
  if (names.empty()) return "";
  if (names.size() > 6) return fmt::format("{} machines", names.size());
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string placement_text(const Outcome& outcome, std::size_t columns) {
  const plan::Placement& placement = outcome.plan->placement;
  const plan::Workload& load = outcome.cluster.workload;
  const std::string name(plan::name_of(placement.strategy));
  const std::string& reason = outcome.plan->explanation.strategy_reason;
  std::string text =
      line("strategy", reason.starts_with(name) ? reason : name + ": " + reason, columns);
  text += "\n" + machine_table(outcome.cluster, placement, columns);
  double kv = 0.0;
  for (const plan::Rank& rank : placement.ranks) kv += rank.kv_bytes;
  text += line("fits",
               fmt::format("with {} GB of KV cache for {} tokens", gigabytes(kv),
                           std::max(load.reserve_tokens, load.batch * load.context)),
               columns);
  if (const std::string names = left_out(outcome.cluster, placement); !names.empty()) {
    text += line("left out", names + ": no faster with them", columns);
  }
  text += line("survives",
               fmt::format("{} lost {} by backups without reading files again; {} by placing "
                           "again on the rest",
                           placement.losses_survived,
                           placement.losses_survived == 1 ? "machine" : "machines",
                           placement.losses_replanned),
               columns);
  return text + "\n";
}

// The figures of batch 1, and of the workload's batch when that is another.
struct SpeedTable {
  bool two = false;
  std::size_t width = 12;

  std::string row(std::string_view name, const std::string& one, const std::string& all) const {
    const std::string second = two ? fmt::format(" {:>{}}", all, width) : "";
    return fmt::format("{:<37} {:>{}}{}\n", name, one, width, second);
  }
};

std::string speed_text(const Outcome& outcome, std::size_t columns) {
  const plan::Prediction& one = outcome.plan->single;
  const plan::Prediction& all = outcome.plan->prediction;
  const plan::Workload& load = outcome.cluster.workload;
  const SpeedTable table{.two = load.batch != 1, .width = columns < kTableColumns ? 10u : 14u};
  const auto row = [&](std::string_view name, double plan::Prediction::*value) {
    return table.row(name, figure(one.*value), figure(all.*value));
  };
  std::string text = table.row("speed", "batch 1", fmt::format("batch {}", load.batch));
  text += row("tokens per second", &plan::Prediction::tokens_per_second);
  if (table.two) text += row("  of each stream", &plan::Prediction::stream_tokens_per_second);
  text += row("  95 % of tokens are faster than", &plan::Prediction::slow_tokens_per_second);
  text +=
      row("roofline (peak bandwidth, no latency)", &plan::Prediction::roofline_tokens_per_second);
  const auto percent = [](const plan::Prediction& p) {
    return fmt::format("{} %", figure(100.0 * p.tokens_per_second / p.roofline_tokens_per_second));
  };
  text += table.row("  reached", percent(one), percent(all));
  text += table.row(fmt::format("first token of {} tokens after", load.prompt),
                    duration(one.first_token_seconds), duration(all.first_token_seconds));
  text += row("prefill, tokens per second", &plan::Prediction::prefill_tokens_per_second);
  text += row("watts", &plan::Prediction::watts);
  text += row("joules per token", &plan::Prediction::joules_per_token);
  text += row("USD per million tokens", &plan::Prediction::usd_per_million_tokens);
  text += row("USD for the machines", &plan::Prediction::price_usd);
  return text + "\n";
}

std::string split_text(const Outcome& outcome, std::size_t columns) {
  constexpr std::size_t kBeforeBar = 35;
  const plan::Prediction& prediction = outcome.plan->prediction;
  const plan::TimeSplit& split = prediction.split;
  const double total = split.total();
  const std::array<std::pair<std::string_view, double>, 7> parts = {{
      {"memory", split.memory},
      {"imbalance", split.imbalance},
      {"compute", split.compute},
      {"KV cache", split.kv},
      {"dispatch", split.dispatch},
      {"exchange", split.exchange},
      {"draft", split.draft},
  }};
  std::string text = wrapped("",
                             fmt::format("one step of {} at batch {}; {} exchanges of {}",
                                         duration(total), outcome.cluster.workload.batch,
                                         prediction.rounds, duration(prediction.exchange_seconds)),
                             2, columns);
  for (const auto& [name, exact] : parts) {
    if (exact == 0.0 && name == "draft") continue;
    const double seconds = std::max(exact, 0.0);  // rounding may leave -1e-18
    const double share = total > 0.0 ? seconds / total : 0.0;
    const std::string shown = fmt::format("{:.3f}", 1e3 * seconds);
    // What shows as nothing draws nothing.
    const double length = shown == "0.000" ? 0.0 : share;
    const std::string drawn = bar(length, std::min(kBarColumns, columns - kBeforeBar));
    text += fmt::format("  {:<10} {:>10} ms {:>4.0f} %{}{}\n", name, shown, 100.0 * share,
                        drawn.empty() ? "" : "  ", drawn);
  }
  return text;
}

std::string events_text(const plan::EventPrediction& events, std::size_t columns) {
  std::string text = fmt::format(
      "{} tok/s over {} tokens; half of the tokens take {} or less, 95 % {}; {:.0f} % of the "
      "machines' time is waiting for others",
      figure(events.tokens_per_second), events.token_seconds.size(), duration(events.p50_seconds),
      duration(events.p95_seconds), 100.0 * events.wait_share);
  if (!events.finished) text += "; a machine was lost and no backup held its slice";
  return "\n" + line("by events", text, columns);
}

std::string explanation_text(const Outcome& outcome, std::size_t columns) {
  const plan::Explanation& why = outcome.plan->explanation;
  const double before = outcome.plan->prediction.tokens_per_second;
  std::string text = "\n" + line("limit", why.constraint, columns);
  const std::size_t count = std::min(why.improvements.size(), kImprovements);
  for (std::size_t i = 0; i < count; ++i) {
    const plan::Improvement& better = why.improvements[i];
    text += line(i == 0 ? "would help" : "",
                 fmt::format("{}: {} tok/s (x {:.2f})", better.change,
                             figure(better.tokens_per_second), better.tokens_per_second / before),
                 columns);
  }
  if (!why.measured_share || !outcome.cluster.measured_tokens_per_second) return text;
  std::string measured =
      fmt::format("{} tok/s, {:.2f} of the prediction",
                  figure(*outcome.cluster.measured_tokens_per_second), *why.measured_share);
  if (why.software_bound) {
    measured +=
        ": software-bound, less than half of what the hardware and this software's known "
        "costs explain; look at the program before buying anything";
  }
  return text + line("measured", measured, columns);
}

}  // namespace

std::string machines_text(const plan::Pool& pool) {
  std::vector<std::pair<std::string, std::size_t>> kinds;  // in order of appearance
  for (const plan::Machine& machine : pool.machines) {
    const std::string title = title_of(machine);
    const auto found = std::find_if(kinds.begin(), kinds.end(),
                                    [&title](const auto& kind) { return kind.first == title; });
    if (found == kinds.end()) {
      kinds.emplace_back(title, 1);
    } else {
      ++found->second;
    }
  }
  std::vector<std::string> texts;
  for (const auto& [title, count] : kinds) texts.push_back(fmt::format("{} x {}", count, title));
  return fmt::format("{}", fmt::join(texts, " + "));
}

std::string links_text(const plan::Pool& pool) {
  if (pool.machines.size() < 2) return "none";
  std::vector<std::string> titles;
  const auto add = [&titles](const plan::Link& link) {
    const std::string& title = link.title.empty() ? link.name : link.title;
    if (std::find(titles.begin(), titles.end(), title) == titles.end()) titles.push_back(title);
  };
  if (pool.link) add(*pool.link);
  for (const plan::PairLink& pair : pool.pairs) add(pair.link);
  return fmt::format("{}; {}", fmt::join(titles, ", "), topology_name(pool.topology));
}

std::string missing_text(const Outcome& outcome) {
  const bool told = outcome.missing.find("would hold") != std::string::npos;
  if (outcome.machines_needed == 0 || told) return outcome.missing;
  return fmt::format("{}; {} machines like {} would hold it", outcome.missing,
                     outcome.machines_needed, title_of(outcome.cluster.pool.machines.back()));
}

std::size_t report_width(std::size_t columns) {
  return std::clamp(columns, kReportColumnsMin, kReportColumns);
}

std::string report_text(const Outcome& outcome, std::size_t columns) {
  const std::size_t width = report_width(columns);
  std::string text = header(outcome, width);
  if (!outcome.fits()) return text + line("missing", missing_text(outcome), width);
  text += placement_text(outcome, width);
  text += speed_text(outcome, width);
  text += split_text(outcome, width);
  if (outcome.events) text += events_text(*outcome.events, width);
  text += explanation_text(outcome, width);
  return text;
}

}  // namespace conclave::apps
