#include "plan/toml_reader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "plan/catalogue.h"

namespace conclave::plan {
namespace {

std::string repeated(std::string_view piece, std::size_t n) {
  std::string text;
  for (std::size_t i = 0; i < n; ++i) text += piece;
  return text;
}

std::string message_of(std::string_view toml) {
  const auto parsed = parse_toml(toml, "f.toml");
  return parsed ? "" : parsed.error().message;
}

TEST(TomlReader, ReadsEveryKind) {
  const TomlNode root =
      *parse_toml("a = 1\nb = 2.5\nc = 'x'\nd = true\ne = [1, 2]\n[f]\ng = 3\n[[h]]\n[[h]]\n", "f");
  const TomlTable table("f", "", root);
  EXPECT_EQ(*table.count("a", {0, 9}), 1u);
  EXPECT_EQ(*table.number("a", {0, 9}), 1.0);
  EXPECT_EQ(*table.number("b", {0, 9}), 2.5);
  EXPECT_EQ(*table.text("c"), "x");
  EXPECT_TRUE(*table.flag_or("d", false));
  EXPECT_EQ(*(*table.table("f")).count("g", {0, 9}), 3u);
  EXPECT_EQ((*table.tables("h")).size(), 2u);
  EXPECT_EQ((*table.tables("f")).size(), 1u);
  EXPECT_EQ((*table.tables("none")).size(), 0u);
}

TEST(TomlReader, DefaultsStandForWhatIsAbsentOnly) {
  const TomlNode root = *parse_toml("a = 'x'\n", "f");
  const TomlTable table("f", "", root);
  EXPECT_EQ(*table.number_or("b", 7.0, {0, 1}), 7.0);
  EXPECT_EQ(*table.count_or("b", 7, {0, 1}), 7u);
  EXPECT_TRUE(*table.flag_or("b", true));
  EXPECT_EQ(*table.text_or("b", "y"), "y");
  EXPECT_FALSE(table.number_or("a", 7.0, {0, 1}));
  EXPECT_FALSE(table.count_or("a", 7, {0, 1}));
  EXPECT_FALSE(table.flag_or("a", true));
}

TEST(TomlReader, ErrorsNameFileLineKeyAndValue) {
  const TomlNode root = *parse_toml("\n[m]\nx = -1\ny = 'a'\n", "f.toml");
  const TomlTable table = *TomlTable("f.toml", "", root).table("m");
  EXPECT_EQ(table.number("x", {0, 5}).error().message,
            "f.toml: line 3: m.x: -1, expected a number from 0 to 5");
  EXPECT_EQ(table.count("y", {1, 5}).error().message,
            "f.toml: line 4: m.y: \"a\", expected a whole number from 1 to 5");
  EXPECT_EQ(table.flag_or("y", true).error().message,
            "f.toml: line 4: m.y: \"a\", expected true or false");
  EXPECT_EQ(table.table("z").error().message, "f.toml: line 2: m.z: missing, expected a table");
  EXPECT_EQ(table.expect_only({"x", "w"}).error().message,
            "f.toml: line 4: m.y: no such key, known here: x, w");
}

TEST(TomlReader, NumbersThatAreNotFiniteAreRefused) {
  const TomlNode root = *parse_toml("a = nan\nb = inf\nc = -inf\n", "f");
  const TomlTable table("f", "", root);
  for (const char* key : {"a", "b", "c"}) {
    EXPECT_FALSE(table.number(key, {-1e300, 1e300})) << key;
  }
}

TEST(TomlReader, WholeNumbersAreNotFractionsOrNegative) {
  const TomlNode root = *parse_toml("a = 4.0\nb = -4\nc = 9223372036854775807\n", "f");
  const TomlTable table("f", "", root);
  for (const char* key : {"a", "b", "c"}) EXPECT_FALSE(table.count(key, {0, 100})) << key;
}

TEST(TomlReader, TextsAreOneLine) {
  const TomlNode root = *parse_toml("a = \"x\\ny\"\nb = ''\nc = 'ok'\nd = ['a', 1]\n", "f");
  const TomlTable table("f", "", root);
  EXPECT_FALSE(table.text("a"));
  EXPECT_FALSE(table.text("b"));
  EXPECT_TRUE(table.text("c"));
  EXPECT_FALSE(table.texts("d"));
  EXPECT_FALSE(table.texts("c"));
}

TEST(TomlReader, WhatIsNotTomlNamesTheLine) {
  EXPECT_TRUE(message_of("a = 1\nb = \n").starts_with("f.toml: line 2: not TOML: "));
  EXPECT_TRUE(message_of("a = 1\na = 2\n").starts_with("f.toml: line 2: not TOML: "));
  EXPECT_FALSE(message_of("a = \"\xff\"\n").empty());
  EXPECT_EQ(message_of("b = \n").find('\n'), std::string::npos);
}

// Found by the fuzzer: an assertion of toml++ aborted the program.
TEST(TomlReader, HeadersWithoutANameAreErrors) {
  for (const char* text :
       {"[[(sre]]\n", "[(", "a = 1\n  [ =]\n", "[[", "[", "[]", "[[]]", "[.a]"}) {
    EXPECT_FALSE(message_of(text).empty()) << text;
  }
  EXPECT_EQ(message_of("a = [\n  [{b = 1}],\n]\n[ 'x' ]\n"), "");
}

// Found by the fuzzer: undefined behaviour of toml++ on a letter outside of quotes.
TEST(TomlReader, LettersBeyondAsciiStandInQuotesAndComments) {
  EXPECT_EQ(message_of("a = \"\u00e9\ua3e3\" # \u00e9\n'\u00e9' = 1\n"), "");
  EXPECT_EQ(message_of("\xef\xbb\xbf"
                       "a = 1\n"),
            "");
  EXPECT_NE(message_of("a = \ua3e3\n"), "");
  EXPECT_NE(message_of("\u00e9 = 1\n"), "");
}

TEST(TomlReader, TooMuchTextIsRefused) {
  const std::string text = "# " + std::string(kCatalogueBytesMax, 'x');
  EXPECT_EQ(message_of(text), "f.toml: 1048578 bytes, at most 1048576");
}

// Half a million dots build half a million tables one inside the other, whose destruction recurses.
TEST(TomlReader, DeepNestingIsRefused) {
  EXPECT_EQ(message_of(repeated("a.", 500'000) + "a = 1\n"), "f.toml: nested deeper than 16");
  EXPECT_FALSE(message_of(repeated("'a' . ", 100'000) + "a = 1\n").empty());
  EXPECT_FALSE(message_of("[" + repeated("a.", 100'000) + "a]\n").empty());
  EXPECT_FALSE(message_of("a = " + repeated("[", 500'000)).empty());
  EXPECT_FALSE(message_of("a = " + repeated("{a=", 300'000)).empty());
  EXPECT_FALSE(message_of("# it's\n" + repeated("a.", 500'000) + "a = 1\n").empty());
  EXPECT_FALSE(message_of("t = '''it's'''\n" + repeated("a.", 100'000) + "a = 1\n").empty());
  EXPECT_FALSE(message_of("t = \"\"\"\"\"a\"\"\"\"\"\n" + repeated("a.", 99) + "a = 1\n").empty());
}

TEST(TomlReader, BracketsAndDotsInTextDoNotNest) {
  EXPECT_EQ(message_of("a = \"" + repeated("[.", 100) + "\"\n"), "");
  EXPECT_EQ(message_of("a = '" + repeated("{.", 100) + "'\n"), "");
  EXPECT_EQ(message_of("# " + repeated("[.", 100) + "\n"), "");
  EXPECT_EQ(message_of("a = \"\\\"" + repeated("[.", 100) + "\"\n"), "");
  EXPECT_EQ(message_of("a = '''\n" + repeated("[.\n", 100) + "'''\n"), "");
  EXPECT_EQ(message_of(repeated("[[m]]\nx = 1.5\n", 1000)), "");
}

TEST(TomlReader, ShownTextIsShortAndOneLine) {
  EXPECT_EQ(shown_text("a\nb"), "a?b");
  EXPECT_EQ(shown_text(std::string(200, 'x')).size(), 83u);
  // Not cut inside a character.
  EXPECT_EQ(shown_text(std::string(79, 'x') + "\u00e9\u00e9"), std::string(79, 'x') + "...");
}

TEST(TomlReader, NumberTextReadsBack) {
  EXPECT_EQ(number_text(0.5), "0.5");
  EXPECT_EQ(number_text(3.0), "3");
  EXPECT_EQ(number_text(std::numeric_limits<double>::quiet_NaN()), "nan");
}

}  // namespace
}  // namespace conclave::plan
