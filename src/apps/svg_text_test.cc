#include "apps/svg_text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace conclave::apps {
namespace {

TEST(SvgText, EscapesWhatXmlReads) {
  EXPECT_EQ(svg_escape("a<b>&\"c'"), "a&lt;b&gt;&amp;&quot;c&#39;");
  EXPECT_EQ(svg_escape("Z\u00fcrich \u2013 \u6771\u4eac \U0001F5A5"),
            "Z\u00fcrich \u2013 \u6771\u4eac \U0001F5A5");
}

TEST(SvgText, ReplacesWhatXmlForbids) {
  EXPECT_EQ(svg_escape(std::string_view("a\0b\x1b[", 4)), "a\uFFFDb\uFFFD");
  EXPECT_EQ(svg_escape("\xC0\xAF"), "\uFFFD\uFFFD");              // overlong
  EXPECT_EQ(svg_escape("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");    // surrogate
  EXPECT_EQ(svg_escape("\xE2\x82"), "\uFFFD\uFFFD");              // cut
  EXPECT_EQ(svg_escape("\xEF\xBF\xBF|"), "\uFFFD\uFFFD\uFFFD|");  // not a character
}

TEST(SvgText, CutsBetweenCharacters) {
  EXPECT_EQ(svg_fit("abc", 3), "abc");
  EXPECT_EQ(svg_fit("abcd", 3), "ab\u2026");
  EXPECT_EQ(svg_fit("\u6771\u4eac\u6771\u4eac", 3), "\u6771\u4eac\u2026");
  EXPECT_EQ(svg_fit("<<<<", 2), "&lt;\u2026");
}

TEST(SvgText, CutsWhatIsTooWide) {
  EXPECT_EQ(svg_fit_width("iiii", 20.0, 10.0), "iiii");
  EXPECT_EQ(svg_fit_width("mmmm", 20.0, 10.0), "\u2026");
  EXPECT_EQ(svg_fit_width("abcdef", 30.0, 10.0), "ab\u2026");
  EXPECT_EQ(svg_fit_width("<<<<<<", 30.0, 10.0), "&lt;&lt;\u2026");
  EXPECT_EQ(svg_fit_width("", 0.0, 10.0), "");
  EXPECT_GT(svg_width("\u6771\u4eac", 10.0), svg_width("ab", 10.0));
  EXPECT_EQ(svg_width("", 10.0), 0.0);
}

TEST(SvgText, NumbersAreFinite) {
  EXPECT_EQ(svg_number(12.34), "12.3");
  EXPECT_EQ(svg_number(-0.01), "0");
  EXPECT_EQ(svg_number(std::nan("")), "0");
  EXPECT_EQ(svg_number(std::numeric_limits<double>::infinity()), "0");
}

TEST(SvgText, TicksAreRoundAndCoverTheRange) {
  EXPECT_EQ(round_ticks(0.0, 49.5, 5), (std::vector<double>{0, 10, 20, 30, 40, 50}));
  EXPECT_EQ(round_ticks(0.0, 100.0, 5), (std::vector<double>{0, 20, 40, 60, 80, 100}));
  for (double high = 1e-6; high < 1e9; high *= 1.7) {
    const std::vector<double> ticks = round_ticks(0.0, high, 5);
    EXPECT_GE(ticks.back(), high * (1.0 - 1e-6));
    EXPECT_GE(ticks.size(), 3U);
    EXPECT_LE(ticks.size(), 7U);
  }
  const double big = std::numeric_limits<double>::max();
  EXPECT_GE(round_ticks(3.0, 3.0, 5).size(), 2U);
  EXPECT_GE(round_ticks(0.0, 0.0, 5).size(), 2U);
  EXPECT_GE(round_ticks(-big, big, 5).size(), 2U);
  EXPECT_GE(round_ticks(std::nan(""), 1.0, 0).size(), 2U);
}

TEST(SvgText, TicksShowAsManyDecimalsAsTheirStep) {
  EXPECT_EQ(tick_text(0.04, 0.02), "0.04");
  EXPECT_EQ(tick_text(40.0, 20.0), "40");
  EXPECT_EQ(tick_text(1.0, 0.5), "1.0");
}

}  // namespace
}  // namespace conclave::apps
