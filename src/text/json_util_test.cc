#include "text/json_util.h"

#include <gtest/gtest.h>

#include "text/test_checkpoint.h"

namespace conclave::text {
namespace {

TEST(JsonUtil, ReadsMembersOfAnyShape) {
  const Json value = Json::parse(R"({"a": "x", "b": 3})");
  EXPECT_EQ(string_member(value, "a"), "x");
  EXPECT_EQ(string_member(value, "b"), "");
  EXPECT_EQ(string_member(value, "c"), "");
  EXPECT_EQ(member(Json(3), "a"), nullptr);
  ASSERT_NE(member(value, "b"), nullptr);
  EXPECT_EQ(*member(value, "b"), 3);
}

TEST(JsonUtil, PythonSpacesAndRepairedBytes) {
  EXPECT_EQ(python_json(Json::parse(R"({"a": [1, {}, "ü"], "b": {"c": null}})")),
            R"({"a": [1, {}, "ü"], "b": {"c": null}})");
  EXPECT_EQ(json_text(Json("a\xFF")), "\"a\xEF\xBF\xBD\"");
}

TEST(JsonUtil, CountsDepth) {
  EXPECT_FALSE(nests_deeper(Json(1), 0));
  EXPECT_FALSE(nests_deeper(Json::parse("[[1]]"), 2));
  EXPECT_TRUE(nests_deeper(Json::parse("[[1]]"), 1));
}

TEST(JsonUtil, FilesAreObjectsOrAbsent) {
  const TestFolder folder;
  EXPECT_EQ(*read_json_file(folder.path() / "none.json", 100), Json::object());
  folder.write("list.json", "[]");
  EXPECT_FALSE(read_json_file(folder.path() / "list.json", 100));
  folder.write("long.json", "{\"a\": \"" + std::string(200, 'x') + "\"}");
  EXPECT_FALSE(read_json_file(folder.path() / "long.json", 100));
}

}  // namespace
}  // namespace conclave::text
