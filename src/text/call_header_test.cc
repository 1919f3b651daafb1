#include "text/call_header.h"

#include <gtest/gtest.h>

namespace conclave::text {
namespace {

void expect_header(std::string_view text, std::string_view id, std::string_view name) {
  const CallHeader header = parse_kimi_header(text, 4);
  EXPECT_EQ(header.id, id) << text;
  EXPECT_EQ(header.name, name) << text;
}

TEST(CallHeader, KimiForms) {
  expect_header("functions.get_weather:0", "functions.get_weather:0", "get_weather");
  expect_header("\n functions.a.b-c:12 \n", "functions.a.b-c:12", "a.b-c");
  expect_header("get_weather:3", "get_weather:3", "get_weather");
  expect_header("functions.functions.x:1", "functions.functions.x:1", "functions.x");
  expect_header("get_weather", "functions.get_weather:4", "get_weather");
  expect_header("functions.f\n:0", "functions.f:4", "f");
  expect_header("ns:tool", "functions.ns:tool:4", "ns:tool");
  expect_header("", "functions.:4", "");
}

TEST(CallHeader, DeepSeekFence) {
  const std::string_view whole = "get_weather\n```json\n{\"a\": 1}";
  for (std::size_t size = 0; size < 20; ++size) {
    EXPECT_FALSE(parse_fence_header(whole.substr(0, size), false)) << size;
  }
  const auto header = parse_fence_header(whole, false);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->name, "get_weather");
  EXPECT_EQ(whole.substr(header->args_begin), "{\"a\": 1}");
  EXPECT_TRUE(header->fenced);
  EXPECT_FALSE(parse_fence_header("f\n{}", false)->fenced);
  EXPECT_EQ(parse_fence_header("  {\"a\"", false)->name, "");  // a tool called "function"
  EXPECT_EQ(parse_fence_header("f", true)->name, "f");
  EXPECT_EQ(parse_fence_header("f\n```js", true)->args_begin, 7u);
}

}  // namespace
}  // namespace conclave::text
