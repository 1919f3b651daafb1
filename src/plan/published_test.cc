// The planner against published measurements, from catalogue inputs only. docs/perf-model.md 3.4.
#include <gtest/gtest.h>

#include <cmath>

#include "plan/plan.h"

namespace conclave::plan {
namespace {

const Catalogue& catalogue() {
  static const Catalogue parsed = [] {
    auto result = parse_catalogue(built_in_sources());
    CHECK(result);
    return std::move(*result);
  }();
  return parsed;
}

struct Published {
  const char* machine;
  std::size_t count;
  const char* link;
  const char* topology;
  const char* model;
  const char* quant;
  const char* software;
  double measured;  // tokens per second, batch 1
};

double predicted(const Published& row, const char* strategy) {
  std::string toml = "model = '" + std::string(row.model) + "'\nquant = '" + row.quant +
                     "'\nsoftware = '" + row.software + "'\nstrategy = '" + strategy +
                     "'\nuse_all = true\nallow_uneven = true\n";
  if (row.count > 1) {
    toml += "link = '" + std::string(row.link) + "'\ntopology = '" + row.topology + "'\n";
  }
  toml += "[[machine]]\nuse = '" + std::string(row.machine) +
          "'\ncount = " + std::to_string(row.count) + "\n";
  auto cluster = parse_cluster(toml, "published", catalogue());
  EXPECT_TRUE(cluster) << (cluster ? "" : cluster.error().message);
  if (!cluster) return 0.0;
  auto plan = make_plan(*cluster);
  EXPECT_TRUE(plan) << (plan ? "" : plan.error().message);
  return plan ? plan->prediction.tokens_per_second : 0.0;
}

TEST(Published, EveryRowOfTheCalibrationTableWithinEightPercent) {
  const Published rows[] = {
      {"m3-ultra-512", 1, "", "", "qwen3-235b-a22b", "8bit", "mlx-exo-2026", 19.5},
      {"m3-ultra-512", 2, "tb5-rdma", "mesh", "qwen3-235b-a22b", "8bit", "mlx-exo-2026", 26.2},
      {"m3-ultra-512", 4, "tb5-rdma", "mesh", "qwen3-235b-a22b", "8bit", "mlx-exo-2026", 31.9},
      {"m3-ultra-512", 1, "", "", "deepseek-v3.1", "4bit", "mlx-exo-2026", 21.1},
      {"m3-ultra-512", 2, "tb5-rdma", "mesh", "deepseek-v3.1", "4bit", "mlx-exo-2026", 27.8},
      {"m3-ultra-512", 4, "tb5-rdma", "mesh", "deepseek-v3.1", "4bit", "mlx-exo-2026", 32.5},
      {"m3-ultra-512", 2, "tb5-rdma", "mesh", "kimi-k2-thinking", "shipped", "mlx-exo-2026", 21.6},
      {"m3-ultra-512", 4, "tb5-rdma", "mesh", "kimi-k2-thinking", "shipped", "mlx-exo-2026", 28.3},
      {"m3-ultra-512", 1, "", "", "kimi-k2.6", "mlx-3.3bit", "mlx-exo-2026", 21.36},
      {"m3-ultra-512", 1, "", "", "kimi-k2.6", "mlx-3.6bit", "mlx-exo-2026", 21.10},
  };
  for (const Published& row : rows) {
    const double speed = predicted(row, "slice");
    EXPECT_NEAR(speed / row.measured, 1.0, 0.08)
        << row.count << " x " << row.machine << " " << row.model << " " << row.quant << ": "
        << speed << " against " << row.measured;
  }
}

TEST(Published, SixMachinesOnARingOverTcpLieInTheirRange) {
  const Published six = {"m2-ultra-192",     6,           "tb4-tcp",      "switch",
                         "kimi-k2-thinking", "int8-pure", "mlx-exo-2026", 1.5};
  const double speed = predicted(six, "slice");
  EXPECT_GE(speed, 1.0);
  EXPECT_LE(speed, 2.0);
}

// Remote procedure calls between stages: each hop costs 3 to 4 ms. docs/perf-model.md 3.4.
TEST(Published, PipelinesOfLlamaCppWithinFifteenPercent) {
  const Published rows[] = {
      {"m3-ultra-512", 1, "", "", "qwen3-235b-a22b", "8bit", "llama-cpp-rpc", 20.4},
      {"m3-ultra-512", 2, "tb5-tcp", "switch", "qwen3-235b-a22b", "8bit", "llama-cpp-rpc", 17.2},
      {"m3-ultra-512", 4, "tb5-tcp", "switch", "qwen3-235b-a22b", "8bit", "llama-cpp-rpc", 15.2},
      {"m3-ultra-512", 1, "", "", "deepseek-v3.1", "4bit", "llama-cpp-rpc", 14.8},
      {"m3-ultra-512", 2, "tb5-tcp", "switch", "deepseek-v3.1", "4bit", "llama-cpp-rpc", 16.0},
      {"m3-ultra-512", 4, "tb5-tcp", "switch", "deepseek-v3.1", "4bit", "llama-cpp-rpc", 14.6},
      {"m3-ultra-512", 2, "tb5-tcp", "switch", "kimi-k2-thinking", "all4", "llama-cpp-rpc", 18.5},
      {"m3-ultra-512", 4, "tb5-tcp", "switch", "kimi-k2-thinking", "all4", "llama-cpp-rpc", 16.4},
  };
  for (const Published& row : rows) {
    const double speed = predicted(row, "pipeline");
    EXPECT_NEAR(speed / row.measured, 1.0, 0.15)
        << row.count << " x " << row.machine << " " << row.model << ": " << speed << " against "
        << row.measured;
  }
}

}  // namespace
}  // namespace conclave::plan
