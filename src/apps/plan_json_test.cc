#include "apps/plan_json.h"

#include <gtest/gtest.h>

#include <limits>

namespace conclave::apps {
namespace {

Outcome outcome_of(const std::string& machines) {
  PlanOptions options;
  options.machines = machines;
  options.link = "tb5-rdma";
  const auto catalogue = load_catalogue("");
  CHECK(catalogue);
  const auto subject = make_subject(options, *catalogue, "");
  CHECK(subject);
  const auto outcome = plan_subject(*subject, plan::EventOptions{});
  CHECK(outcome);
  return *outcome;
}

TEST(PlanJson, HasEverythingWithUnits) {
  const auto json = to_json(outcome_of("m3-ultra-512*4"));
  EXPECT_EQ(json["fits"], true);
  EXPECT_EQ(json["model"]["name"], "kimi-k2-thinking");
  EXPECT_EQ(json["placement"]["ranks"].size(), 4u);
  double share = 0.0;
  for (const auto& rank : json["placement"]["ranks"]) share += rank["share"].get<double>();
  EXPECT_NEAR(share, 1.0, 1e-9);
  double split = 0.0;
  for (const auto& seconds : json["prediction"]["split_seconds"]) split += seconds.get<double>();
  EXPECT_NEAR(split, json["prediction"]["step_seconds"].get<double>(), 1e-9);
  EXPECT_GT(json["prediction_batch_1"]["joules_per_token"].get<double>(), 0.0);
  EXPECT_TRUE(json["explanation"]["measured_share"].is_null());
  EXPECT_GT(json["events"]["p95_seconds"].get<double>(), 0.0);
  EXPECT_EQ(json["pool"]["link"]["name"], "tb5-rdma");
}

TEST(PlanJson, OneThatDoesNotFitSaysSo) {
  const auto json = to_json(outcome_of("m3-ultra-512"));
  EXPECT_EQ(json["fits"], false);
  EXPECT_EQ(json["machines_needed"], 2);
  EXPECT_FALSE(json["missing"].get<std::string>().empty());
  EXPECT_FALSE(json.contains("prediction"));
}

TEST(PlanJson, TheCatalogueNamesItsQuants) {
  const auto catalogue = load_catalogue("");
  ASSERT_TRUE(catalogue);
  const auto json = to_json(*catalogue);
  EXPECT_EQ(json["machines"].size(), catalogue->machines.size());
  EXPECT_GT(json["models"][0]["quants"][0]["stored_bytes"].get<double>(), 0.0);
}

// nlohmann throws on text that is no UTF-8 unless told otherwise: a file's name may be anything.
TEST(PlanJson, BrokenTextAndNumbersAreMended) {
  nlohmann::ordered_json json;
  json["name"] = "a\xff";
  json["rate"] = std::numeric_limits<double>::infinity();
  const std::string text = json_text(json);
  EXPECT_NE(text.find("a\xef\xbf\xbd"), std::string::npos);
  EXPECT_NE(text.find("\"rate\": null"), std::string::npos);
}

}  // namespace
}  // namespace conclave::apps
