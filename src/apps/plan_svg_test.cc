#include "apps/plan_svg.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "apps/svg_check.h"

namespace conclave::apps {
namespace {

std::vector<SweepPoint> doubling() {
  std::vector<SweepPoint> points;
  for (double x = 1.0; x <= 64.0; x *= 2.0) points.push_back({x, 20.0 * std::sqrt(x), "slice"});
  return points;
}

TEST(XmlCheck, FindsWhatIsWrong) {
  EXPECT_EQ(xml_error("<a><b x=\"1\" y=\"&lt;\"/>t</a>"), "");
  for (const std::string_view bad :
       {"", "<a>", "<a></b>", "<a/><b/>", "<a>&x</a>", "<a b=1/>", "<a b=\"1\" b=\"2\"/>", "<a"}) {
    EXPECT_NE(xml_error(bad), "") << bad;
  }
}

TEST(SvgSweep, IsWellFormedWithTitleAndBothColourSchemes) {
  const std::string svg = svg_sweep("Kimi K2", "streams", doubling());
  EXPECT_EQ(xml_error(svg), "");
  EXPECT_FALSE(has_bad_number(svg));
  EXPECT_EQ(occurrences(svg, "<title id=\"title\">Kimi K2</title>"), 1U);
  EXPECT_EQ(occurrences(svg, "<desc "), 1U);
  EXPECT_EQ(occurrences(svg, "prefers-color-scheme: dark"), 1U);
  EXPECT_EQ(occurrences(svg, "<script"), 0U);
  EXPECT_EQ(occurrences(svg, "<circle"), 7U);
}

TEST(SvgSweep, EscapesTitleAxisAndLabels) {
  const std::vector<SweepPoint> points = {{1, 10, "<b>"}, {2, 20, "a&b"}};
  const std::string svg = svg_sweep("<script>alert(1)</script>", "x & y", points);
  EXPECT_EQ(xml_error(svg), "");
  EXPECT_EQ(occurrences(svg, "<script"), 0U);
  EXPECT_GE(occurrences(svg, "x &amp; y"), 1U);
  EXPECT_GE(occurrences(svg, "&lt;b&gt;"), 1U);
}

TEST(SvgSweep, DrawsNoneOneAndEqualPoints) {
  const std::vector<SweepPoint> one = {{3, 12.3, "slice"}};
  const std::vector<SweepPoint> zero = {{0, 0, ""}, {0, 0, ""}};
  for (const std::vector<SweepPoint>& points : {std::vector<SweepPoint>{}, one, zero}) {
    const std::string svg = svg_sweep("few", "machines", points);
    EXPECT_EQ(xml_error(svg), "");
    EXPECT_FALSE(has_bad_number(svg));
    EXPECT_EQ(occurrences(svg, "<circle"), points.size());
  }
  EXPECT_EQ(occurrences(svg_sweep("none", "machines", {}), "no point to draw"), 1U);
}

TEST(SvgSweep, LeavesOutWhatIsNotFinite) {
  const double infinite = std::numeric_limits<double>::infinity();
  const std::vector<SweepPoint> points = {
      {1, 10, ""}, {2, std::nan(""), ""}, {infinite, 5, ""}, {3, infinite, ""}, {4, -7, ""}};
  const std::string svg = svg_sweep("bad", "machines", points);
  EXPECT_EQ(xml_error(svg), "");
  EXPECT_FALSE(has_bad_number(svg));
  EXPECT_EQ(occurrences(svg, "<circle"), 2U);
}

TEST(SvgSweep, WholeNumbersAndDoublingsAreTheTicks) {
  const std::vector<SweepPoint> machines = {{1, 10, ""}, {2, 18, ""}, {3, 24, ""}};
  const std::string linear = svg_sweep("", "machines", machines);
  EXPECT_EQ(occurrences(linear, ">1.5<"), 0U);
  EXPECT_EQ(occurrences(linear, ">2<"), 1U);
  const std::string factors = svg_sweep("", "streams", doubling());
  for (const std::string_view tick : {">1<", ">8<", ">16<", ">32<", ">64<"}) {
    EXPECT_EQ(occurrences(factors, tick), 1U) << tick;
  }
}

TEST(SvgSweep, ALabelStandsWhereItChanges) {
  const std::vector<SweepPoint> points = {
      {3, 30, "slice"}, {1, 10, "pipeline"}, {2, 20, "pipeline"}, {4, 40, "slice"}};
  const std::string svg = svg_sweep("", "machines", points);
  EXPECT_EQ(occurrences(svg, ">pipeline<"), 1U);
  EXPECT_EQ(occurrences(svg, ">slice<"), 1U);
}

}  // namespace
}  // namespace conclave::apps
