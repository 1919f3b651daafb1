#include <gtest/gtest.h>

#include "text/text.h"

namespace conclave::text {
namespace {

constexpr std::string_view kBad = "\xEF\xBF\xBD";

std::string one_by_one(std::string_view bytes) {
  Utf8Stream stream;
  std::string out;
  for (const char byte : bytes) out += stream.push({&byte, 1});
  return out + stream.finish();
}

TEST(Utf8Stream, HoldsBackAnIncompleteCodePoint) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.push("\x98"), "");
  EXPECT_EQ(stream.push("\x80"), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.finish(), "");
}

TEST(Utf8Stream, AnyCutGivesTheSameText) {
  const std::string text = "aé中文😀 z";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    Utf8Stream stream;
    std::string out = stream.push(std::string_view(text).substr(0, cut));
    out += stream.push(std::string_view(text).substr(cut));
    EXPECT_EQ(out + stream.finish(), text) << cut;
  }
  EXPECT_EQ(one_by_one(text), text);
}

// The counts are those of Python's bytes.decode("utf-8", "replace").
TEST(Utf8Stream, RepairsInvalidBytes) {
  const std::string bad(kBad);
  EXPECT_EQ(one_by_one("a\xFF"
                       "b"),
            "a" + bad + "b");
  EXPECT_EQ(one_by_one("\xE4\xB8"), bad);
  EXPECT_EQ(one_by_one("\xE4\xB8z"), bad + "z");
  EXPECT_EQ(one_by_one("\xED\xA0\x80"), bad + bad + bad);  // a surrogate
  EXPECT_EQ(one_by_one("\xC0\xAF"), bad + bad);            // overlong
  EXPECT_EQ(one_by_one("\xF4\x90\x80\x80"), bad + bad + bad + bad);
  EXPECT_EQ(one_by_one("\x80"), bad);
}

}  // namespace
}  // namespace conclave::text
