#include "apps/plan_seed_table.h"

#include <gtest/gtest.h>

#include <sstream>

#include "apps/plan_format.h"

namespace conclave::apps {
namespace {

std::vector<Row> rows_of_the_catalogue() {
  const auto catalogue = load_catalogue("");
  CHECK(catalogue);
  auto rows = seed_rows(*catalogue);
  CHECK(rows);
  return std::move(*rows);
}

double speed(const Row& row) { return row.outcome.plan->single.tokens_per_second; }

// docs/perf-model.md 0: 1 to 2, and about 28, tokens per second were published.
TEST(SeedTable, ReproducesWhatWasPublished) {
  const std::vector<Row> rows = rows_of_the_catalogue();
  ASSERT_EQ(rows.size(), 8u);
  ASSERT_TRUE(rows[0].outcome.fits()) << rows[0].outcome.missing;
  EXPECT_GT(speed(rows[0]), 1.0);
  EXPECT_LT(speed(rows[0]), 2.7);
  ASSERT_TRUE(rows[2].outcome.fits());
  EXPECT_NEAR(speed(rows[2]), 28.3, 0.08 * 28.3);
  EXPECT_GT(speed(rows[1]), 10 * speed(rows[0]));
  EXPECT_GT(speed(rows[3]), speed(rows[2]));
}

TEST(SeedTable, OneH100CannotHoldItAndTheNoteSaysHowManyWould) {
  const std::vector<Row> rows = rows_of_the_catalogue();
  EXPECT_FALSE(rows[4].outcome.fits());
  EXPECT_FALSE(rows[5].outcome.fits());
  EXPECT_GE(rows[5].outcome.machines_needed, 8u);
  ASSERT_TRUE(rows[7].outcome.fits());
  const std::string text = seed_text(rows, 80);
  EXPECT_NE(text.find("no fit"), std::string::npos) << text;
  EXPECT_NE(text.find("would hold it"), std::string::npos) << text;
}

TEST(SeedTable, FitsTheColumns) {
  const std::vector<Row> rows = rows_of_the_catalogue();
  for (const std::size_t columns : {60u, 80u, 100u}) {
    std::istringstream lines(seed_text(rows, columns));
    for (std::string line; std::getline(lines, line);) {
      EXPECT_LE(columns_of(line), columns) << line;
    }
  }
}

}  // namespace
}  // namespace conclave::apps
