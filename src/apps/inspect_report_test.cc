#include "apps/inspect_report.h"

#include <gtest/gtest.h>

namespace conclave::apps {
namespace {

InspectReport sample() {
  InspectReport report;
  report.dir = "some/model";
  report.weights = "int8";
  report.config.model_type = "kimi_k2";
  report.config.n_layers = 3;
  report.config.n_dense_layers = 1;
  report.config.max_positions = 1000;
  report.model.kv_bytes_per_token = 2000;
  report.model.parts = {{.part = "routed experts",
                         .format = "int4",
                         .parameters = 100,
                         .file_bytes = 60,
                         .kept_bytes = 50,
                         .read_per_token = 10},
                        {.part = "attention",
                         .format = "int8",
                         .parameters = 11,
                         .file_bytes = 22,
                         .kept_bytes = 12,
                         .read_per_token = 12}};
  return report;
}

TEST(InspectReport, TotalsAddUp) {
  const model::PartBytes total = total_of(sample().model);
  EXPECT_EQ(total.parameters, 111u);
  EXPECT_EQ(total.file_bytes, 82u);
  EXPECT_EQ(total.kept_bytes, 62u);
  EXPECT_EQ(total.read_per_token, 22u);
}

TEST(InspectReport, JsonHasPartsAndTotal) {
  const auto json = to_json(sample());
  EXPECT_EQ(json["parts"].size(), 2u);
  EXPECT_EQ(json["total"]["read_per_token"], 22);
  EXPECT_EQ(json["moe_layers"], 2);
  EXPECT_EQ(json["weights"], "int8");
}

TEST(InspectReport, TextHasARowPerPart) {
  const std::string text = to_text(sample());
  for (const char* words : {"routed experts", "attention", "total", "KV cache 2.0 kB per token"}) {
    EXPECT_NE(text.find(words), std::string::npos) << words;
  }
}

}  // namespace
}  // namespace conclave::apps
