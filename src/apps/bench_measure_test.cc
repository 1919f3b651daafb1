#include "apps/bench_measure.h"

#include <gtest/gtest.h>

namespace conclave::apps {
namespace {

TEST(SpreadOf, MinMedianMax) {
  const Spread odd = spread_of({3.0, 1.0, 2.0});
  EXPECT_EQ(odd.min, 1.0);
  EXPECT_EQ(odd.median, 2.0);
  EXPECT_EQ(odd.max, 3.0);
  EXPECT_EQ(spread_of({4.0, 1.0}).median, 2.5);
}

TEST(BenchRow, SharesAreOfTheirOwnProbes) {
  BenchRow row;
  row.bytes_per_token = 1'000'000'000;
  row.tokens_per_second = {10.0, 8.0};
  row.plain_gb = {20.0, 10.0};
  row.streams_gb = {40.0, 32.0};
  EXPECT_EQ(row.gb_per_second(), (std::vector<double>{10.0, 8.0}));
  EXPECT_EQ(row.of_plain(), (std::vector<double>{0.5, 0.8}));
  EXPECT_EQ(row.of_streams(), (std::vector<double>{0.25, 0.25}));
}

TEST(BenchReport, JsonAndTableShowDecodeShares) {
  BenchReport report;
  report.model = "ember";
  report.runs = 1;
  BenchRow prefill{.name = "prefill 64",
                   .tokens = 64,
                   .tokens_per_second = {100.0},
                   .plain_gb = {10.0},
                   .streams_gb = {12.0},
                   .bytes_per_token = 0};
  BenchRow decode = prefill;
  decode.name = "decode";
  decode.bytes_per_token = 50'000'000;
  report.rows = {prefill, decode};
  const auto json = to_json(report);
  EXPECT_FALSE(json["results"][0].contains("of_plain"));
  EXPECT_DOUBLE_EQ(json["results"][1]["of_plain"]["median"].get<double>(), 0.5);
  EXPECT_NE(to_text(report).find("prefill 64"), std::string::npos);
}

}  // namespace
}  // namespace conclave::apps
