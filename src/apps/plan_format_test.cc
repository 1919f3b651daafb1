#include "apps/plan_format.h"

#include <gtest/gtest.h>

#include <limits>

namespace conclave::apps {
namespace {

TEST(PlanFormat, FiguresHaveThreeDigits) {
  EXPECT_EQ(figure(0.0), "0.00");
  EXPECT_EQ(figure(0.1234), "0.123");
  EXPECT_EQ(figure(1.234), "1.23");
  EXPECT_EQ(figure(49.51), "49.5");
  EXPECT_EQ(figure(99.97), "100");
  EXPECT_EQ(figure(1234567.0), "1,234,567");
  EXPECT_EQ(figure(std::numeric_limits<double>::infinity()), "-");
}

TEST(PlanFormat, BytesAndTimes) {
  EXPECT_EQ(gigabytes(594e9), "594.0");
  EXPECT_EQ(gigabytes(0.576e9), "0.58");
  EXPECT_EQ(gigabytes(4.5e6), "0.004");
  EXPECT_EQ(gigabytes(0.0), "0");
  EXPECT_EQ(duration(12e-6), "12.0 us");
  EXPECT_EQ(duration(0.0202), "20.2 ms");
  EXPECT_EQ(duration(2.345), "2.35 s");
}

TEST(PlanFormat, BarsShowWhatIsThere) {
  EXPECT_EQ(bar(0.5, 20), "##########");
  EXPECT_EQ(bar(0.001, 20), "#");
  EXPECT_EQ(bar(0.0, 20), "");
  EXPECT_EQ(bar(7.0, 3), "###");
}

TEST(PlanFormat, WrapsBetweenWords) {
  EXPECT_EQ(wrapped("limit  ", "kernel dispatch takes half", 7, 22),
            "limit  kernel dispatch\n       takes half\n");
  EXPECT_EQ(wrapped("", "", 2, 10), "\n");
  EXPECT_EQ(wrapped("", "unbreakableword x", 2, 5), "unbreakableword\n  x\n");
  EXPECT_EQ(columns_of("naïve"), 5u);
}

TEST(PlanFormat, LongNamesKeepBothEnds) {
  EXPECT_EQ(shortened("m3-ultra-512", 12), "m3-ultra-512");
  EXPECT_EQ(shortened("m3-ultra-512+12", 12), "m3-ultr..+12");
  EXPECT_EQ(shortened("naïve-naïve", 8), "naïv..ve");
  EXPECT_EQ(shortened("naïve", 2), "..");
  EXPECT_EQ(shortened("naïve", 0), "");
  EXPECT_EQ(cell("naïve", 7), "naïve  ");
  EXPECT_EQ(cell("naïve", 3), "n..");
}

}  // namespace
}  // namespace conclave::apps
