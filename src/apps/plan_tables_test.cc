#include "apps/plan_tables.h"

#include <gtest/gtest.h>

#include <sstream>

#include "apps/plan_format.h"

namespace conclave::apps {
namespace {

class PlanTables : public testing::Test {
 protected:
  void SetUp() override {
    auto catalogue = load_catalogue("");
    ASSERT_TRUE(catalogue) << catalogue.error().message;
    catalogue_ = std::move(*catalogue);
    PlanOptions options;
    options.machines = "m3-ultra-512*4";
    options.link = "tb5-tcp";
    const auto subject = make_subject(options, catalogue_, "");
    ASSERT_TRUE(subject) << subject.error().message;
    subject_ = *subject;
  }

  Row row(std::string name, const Subject& subject) {
    auto outcome = plan_subject(subject);
    CHECK(outcome);
    return {std::move(name), std::move(*outcome)};
  }
  std::vector<Row> node_rows(const Sweep& sweep) {
    std::vector<Row> rows;
    for (const std::size_t value : sweep.values) {
      const auto subject = swept(subject_, sweep.key, value);
      CHECK(subject);
      rows.push_back(row(std::to_string(value), *subject));
    }
    return rows;
  }
  // `text_at(columns)` is the same text for terminals of several widths.
  template <class Text>
  static void expect_columns(const Text& text_at) {
    for (const std::size_t columns : {60u, 65u, 72u, 80u, 100u}) {
      std::istringstream lines(text_at(columns));
      for (std::string line; std::getline(lines, line);) {
        EXPECT_LE(columns_of(line), columns) << line;
      }
    }
  }

  plan::Catalogue catalogue_;
  Subject subject_;
};

TEST_F(PlanTables, TheListHasEveryName) {
  const std::string text = list_text(catalogue_, 80);
  for (const auto& machine : catalogue_.machines) {
    EXPECT_NE(text.find("\n" + machine.name + " "), std::string::npos) << machine.name;
  }
  for (const auto& software : catalogue_.software) {
    EXPECT_NE(text.find("\n" + software.name + " "), std::string::npos) << software.name;
  }
  expect_columns([&](std::size_t columns) { return list_text(catalogue_, columns); });
}

TEST_F(PlanTables, ASweepHasARowForEachValueAndPointsForThoseThatFit) {
  const Sweep sweep{SweepKey::kNodes, {1, 2, 4}};
  const std::vector<Row> rows = node_rows(sweep);
  const std::string text = sweep_text(sweep, rows, 80);
  EXPECT_NE(text.find("no fit"), std::string::npos) << text;  // 490 GB for 594
  EXPECT_NE(text.find("GB missing"), std::string::npos) << text;
  expect_columns([&](std::size_t columns) { return sweep_text(sweep, rows, columns); });
  const auto points = sweep_points(sweep, rows);
  ASSERT_EQ(points.size(), 2u);
  EXPECT_EQ(points[0].x, 2.0);
  EXPECT_GT(points[1].tokens_per_second, points[0].tokens_per_second);
  EXPECT_EQ(machines_used(rows[0].outcome), 0u);
  EXPECT_GE(machines_used(rows[2].outcome), 2u);
}

TEST_F(PlanTables, WhatIfShowsBeforeAndAfter) {
  const auto change = parse_change("link=tb5-rdma");
  ASSERT_TRUE(change);
  const auto better = changed(subject_, catalogue_, *change);
  ASSERT_TRUE(better) << better.error().message;
  const std::vector<Row> rows = {row("as it is", subject_), row("link=tb5-rdma", *better)};
  const std::string text = what_if_text(rows, 80);
  for (const char* word : {"as it is", "link=tb5-rdma", " -> slice", "times", "USD/Mtok"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << "\n" << text;
  }
  EXPECT_GT(rows[1].outcome.plan->prediction.tokens_per_second,
            rows[0].outcome.plan->prediction.tokens_per_second);
  expect_columns([&](std::size_t columns) { return what_if_text(rows, columns); });
}

TEST_F(PlanTables, CompareNamesTheClusters) {
  const std::vector<Row> rows = {row("four", subject_), row("again", subject_)};
  const std::string text = compare_text(rows, 80);
  EXPECT_NE(text.find("\nfour "), std::string::npos) << text;
  EXPECT_NE(text.find("\nagain "), std::string::npos) << text;
  EXPECT_NE(text.find("limit: "), std::string::npos) << text;
  expect_columns([&](std::size_t columns) { return compare_text(rows, columns); });
  const auto json = rows_json("compare", rows);
  EXPECT_EQ(json["compare"][1]["name"], "again");
  EXPECT_EQ(json["compare"][1]["plan"]["fits"], true);
}

TEST_F(PlanTables, NamesAreCutOnlyWhereThereIsNoRoom) {
  const std::vector<Row> rows = {row("the cluster of the first floor", subject_),
                                 row("the cluster of the fifth floor", subject_)};
  EXPECT_NE(compare_text(rows, 100).find("\nthe cluster of the first floor slice"),
            std::string::npos);
  EXPECT_NE(compare_text(rows, 80).find("J/tok"), std::string::npos);
  // The figures that matter less go before the names.
  const std::string narrow = compare_text(rows, 60);
  EXPECT_EQ(narrow.find("J/tok"), std::string::npos);
  EXPECT_NE(narrow.find("\nthe clus..oor slice"), std::string::npos) << narrow;
}

}  // namespace
}  // namespace conclave::apps
