#include "apps/plan_seed_table.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>

#include "apps/plan_format.h"
#include "apps/plan_report.h"

namespace conclave::apps {
namespace {

struct SeedCluster {
  std::string_view title;
  std::string_view machine;
  std::size_t count;
  std::string_view link;
  plan::Topology topology;
  std::string_view model;
  std::string_view quant;
  std::string_view other_software;
};

// As published. Eight bits with a scale per channel are the only INT8 that six times 180 GB hold.
constexpr std::array<SeedCluster, 4> kSeeds = {{
    {"6 x M2 Ultra, TB4, INT8", "m2-ultra-192", 6, "tb4-tcp", plan::Topology::kMesh, "kimi-k2",
     "int8-pure", "mlx-exo-2026"},
    {"4 x M3 Ultra, TB5 RDMA", "m3-ultra-512", 4, "tb5-rdma", plan::Topology::kMesh,
     "kimi-k2-thinking", "shipped", "mlx-exo-2026"},
    {"1 x H100", "h100-80", 1, "nvlink4", plan::Topology::kSwitch, "kimi-k2-thinking", "shipped",
     "vllm-2026"},
    {"8 x A100", "a100-80", 8, "nvlink3", plan::Topology::kSwitch, "kimi-k2-thinking", "shipped",
     "vllm-2026"},
}};

Result<Subject> subject_of(const plan::Catalogue& catalogue, const SeedCluster& seed,
                           std::string_view software) {
  Subject subject;
  plan::Cluster& cluster = subject.cluster;
  cluster.name = std::string(seed.title);
  cluster.model = TRY(plan::find_model(catalogue, seed.model, seed.quant));
  cluster.software = TRY(plan::find_software(catalogue, software));
  plan::adopt_software(cluster);
  const plan::Machine kind = TRY(plan::find_machine(catalogue, seed.machine));
  for (std::size_t i = 1; i <= seed.count; ++i) {
    cluster.pool.machines.push_back(kind);
    cluster.pool.machines.back().name = fmt::format("{}-{}", kind.name, i);
  }
  cluster.pool.link = TRY(plan::find_link(catalogue, seed.link));
  cluster.pool.topology = seed.topology;
  // Both published Mac clusters divided every layer; so does tensor parallelism on a GPU server.
  if (software != kDefaultSoftware) {
    cluster.policy.strategy = plan::Strategy::kSlice;
    cluster.policy.allow_uneven = true;  // 64 heads on six machines, as published
  }
  return subject;
}

// `wide`: also what one token takes.
std::string line_of(std::string_view name, std::string_view software, bool wide,
                    const std::array<std::string, 5>& figures) {
  std::string text =
      fmt::format("{} {} {:>7} {:>9}", cell(name, 24), cell(software, 13), figures[0], figures[1]);
  if (wide) text += fmt::format(" {:>6} {:>6} {:>8}", figures[2], figures[3], figures[4]);
  return text + "\n";
}

std::string row_text(const Row& row, bool wide) {
  const plan::Cluster& cluster = row.outcome.cluster;
  double price = 0.0;
  for (const plan::Machine& machine : cluster.pool.machines) price += machine.price_usd;
  if (!row.outcome.fits()) {
    return line_of(row.name, cluster.software.name, wide, {"no fit", figure(price), "-", "-", "-"});
  }
  const plan::Prediction& p = row.outcome.plan->single;
  return line_of(row.name, cluster.software.name, wide,
                 {figure(p.tokens_per_second), figure(price), figure(p.watts),
                  figure(p.joules_per_token), figure(p.usd_per_million_tokens)});
}

// What is missing, once a cluster.
std::string notes_text(std::span<const Row> rows, std::size_t columns) {
  std::string text;
  std::string_view told;
  for (const Row& row : rows) {
    if (row.outcome.fits() || row.name == told) continue;
    told = row.name;
    text += wrapped(fmt::format("{}: ", row.name), missing_text(row.outcome), 2, columns);
  }
  return text;
}

}  // namespace

Result<std::vector<Row>> seed_rows(const plan::Catalogue& catalogue) {
  std::vector<Row> rows;
  for (const SeedCluster& seed : kSeeds) {
    for (const std::string_view software : {seed.other_software, kDefaultSoftware}) {
      const Subject subject = TRY(subject_of(catalogue, seed, software));
      rows.push_back({std::string(seed.title), TRY(plan_subject(subject))});
    }
  }
  return rows;
}

std::string seed_text(std::span<const Row> rows, std::size_t columns) {
  const std::size_t width = report_width(columns);
  std::string text = wrapped("",
                             "Kimi K2, one stream, 512 tokens of context. conclave's rows are "
                             "predictions from its targets, not measurements.",
                             0, width);
  const bool wide = width >= kTableColumns;
  text += "\n" + line_of("cluster", "software", wide, {"tok/s", "USD", "W", "J/tok", "USD/Mtok"});
  for (const Row& row : rows) text += row_text(row, wide);
  text += "\n" + notes_text(rows, width);
  text += wrapped("",
                  "As shipped: INT4 experts, BF16 otherwise. USD/Mtok: the machines over three "
                  "years of use without pause, and energy at 0.15 USD per kWh.",
                  0, width);
  return text;
}

}  // namespace conclave::apps
