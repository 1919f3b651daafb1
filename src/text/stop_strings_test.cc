#include <gtest/gtest.h>

#include "text/text.h"

namespace conclave::text {
namespace {

TEST(StopStrings, ShowsNoPartOfAStopString) {
  StopStrings stops({"\n\nUser:", "END"});
  EXPECT_EQ(stops.push("Hello\n").text, "Hello");
  EXPECT_EQ(stops.push("\nUs").text, "");
  EXPECT_EQ(stops.push("ual").text, "\n\nUsual");
  const auto output = stops.push(" E");
  EXPECT_EQ(output.text, " ");
  EXPECT_FALSE(output.stopped_by);
  const auto last = stops.push("ND of text");
  EXPECT_EQ(last.text, "");
  EXPECT_EQ(last.stopped_by, "END");
}

TEST(StopStrings, GivesBackWhatItHeldAtTheEnd) {
  StopStrings stops({"stop"});
  EXPECT_EQ(stops.push("a sto").text, "a ");
  EXPECT_EQ(stops.finish(), "sto");
  EXPECT_EQ(stops.finish(), "");
}

TEST(StopStrings, TheLeftmostWinsThenTheLongest) {
  StopStrings stops({"b", "ab", "abc", ""});
  const auto output = stops.push("xabcd");
  EXPECT_EQ(output.text, "x");
  EXPECT_EQ(output.stopped_by, "abc");
}

TEST(StopStrings, WithoutStopsAllPasses) {
  StopStrings stops({});
  EXPECT_EQ(stops.push("all of it").text, "all of it");
}

}  // namespace
}  // namespace conclave::text
