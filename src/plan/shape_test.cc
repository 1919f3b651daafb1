// Figures of docs/perf-model.md 2 and docs/models.md 10.
#include "plan/shape.h"

#include <gtest/gtest.h>

#include "plan/plan.h"

namespace conclave::plan {
namespace {

Model built_in(std::string_view name, std::string_view quant) {
  const auto catalogue = parse_catalogue(built_in_sources());
  CHECK(catalogue);
  const auto model = find_model(*catalogue, name, quant);
  CHECK(model);
  return *model;
}

TEST(Shape, ParametersOfKimiK2) {
  const Architecture a = built_in("kimi-k2-thinking", "shipped").architecture;
  EXPECT_NEAR(parameters_of(a, Part::kAttention) / 1e6, 85.98, 0.01);
  EXPECT_NEAR(parameters_of(a, Part::kAttentionSmall) / 1e6, 15.14, 0.01);
  EXPECT_NEAR(parameters_of(a, Part::kRouter) / 1e6, 2.753, 0.001);
  EXPECT_NEAR(parameters_of(a, Part::kShared) / 1e6, 44.04, 0.01);
  EXPECT_NEAR(parameters_of(a, Part::kRouted) / 1e6, 44.04, 0.01);
  EXPECT_NEAR(parameters_of(a, Part::kDense) / 1e6, 396.4, 0.1);
  EXPECT_NEAR(parameters_of(a, Part::kHead) / 1e6, 1174.4, 0.1);
  EXPECT_NEAR(flops_per_token(a) / 1e9, 63.4, 0.05);
}

TEST(Shape, BytesReadPerTokenOfKimiK2) {
  struct Row {
    const char* quant;
    double read_gb;
    double file_gb;
  };
  const Row rows[] = {{"shipped", 32.98, 594},
                      {"i4i8", 23.25, 584},
                      {"all4", 18.06, 579},
                      {"int8", 33.82, 1092},
                      {"bf16", 63.37, 2053}};
  for (const Row& row : rows) {
    const Model model = built_in("kimi-k2-thinking", row.quant);
    EXPECT_NEAR(read_bytes(model) / 1e9 / row.read_gb, 1.0, 0.006) << row.quant;
    EXPECT_NEAR(stored_bytes(model) / 1e9 / row.file_gb, 1.0, 0.006) << row.quant;
  }
}

TEST(Shape, CacheOfKimiK2IsSeventyKilobytesAToken) {
  const Model model = built_in("kimi-k2-thinking", "shipped");
  EXPECT_EQ(kv_bytes_per_token(model), 70'272.0);
  EXPECT_EQ(kv_bytes(model, 1000), 70'272'000.0);
}

TEST(Shape, SlidingLayersKeepTheirWindow) {
  const Model model = built_in("gpt-oss-120b", "shipped");
  const Architecture& a = model.architecture;
  ASSERT_GT(a.n_sliding_layers, 0u);
  const double per_layer = kv_bytes_per_token(model) / static_cast<double>(a.n_layers);
  const double full = static_cast<double>(a.n_layers - a.n_sliding_layers) * 10'000.0;
  const double windows = static_cast<double>(a.n_sliding_layers * a.sliding_window);
  EXPECT_NEAR(kv_bytes(model, 10'000), per_layer * (full + windows), 1.0);
}

TEST(Shape, DistinctExpertsOfABatch) {
  const Architecture a = built_in("kimi-k2-thinking", "shipped").architecture;
  EXPECT_NEAR(distinct_experts(a, 1, 0.0), 8.0, 1e-9);
  EXPECT_NEAR(distinct_experts(a, 4, 0.0), 31.0, 0.1);
  EXPECT_NEAR(distinct_experts(a, 32, 0.0), 188.0, 0.5);
  EXPECT_NEAR(distinct_experts(a, 128, 0.0), 358.0, 0.5);
  // Skewed popularity: docs/perf-model.md 3.1.
  EXPECT_NEAR(distinct_experts(a, 32, 0.5), 171.0, 4.0);
  EXPECT_NEAR(distinct_experts(a, 32, 0.8), 140.0, 4.0);
  EXPECT_NEAR(distinct_experts(a, 32, 1.0), 116.0, 4.0);
}

TEST(Shape, ArchitecturesThatCannotBe) {
  const Architecture good = built_in("qwen3-30b-a3b", "").architecture;
  EXPECT_TRUE(check(good));
  Architecture a = good;
  a.n_experts = 0;
  EXPECT_NE(check(a).error().message.find("experts is missing or zero"), std::string::npos);
  a = good;
  a.experts_per_token = a.n_experts + 1;
  EXPECT_FALSE(check(a));
  a = good;
  a.n_dense_layers = a.n_layers;
  EXPECT_FALSE(check(a));
  a = good;
  a.n_kv_heads = 5;
  EXPECT_FALSE(check(a));
  a = good;
  a.hidden_size = std::size_t{1} << 40;
  EXPECT_FALSE(check(a));
}

}  // namespace
}  // namespace conclave::plan
