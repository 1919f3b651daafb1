#include "formats/index.h"

#include <gtest/gtest.h>

#include <string>

namespace conclave::formats {
namespace {

Result<ShardIndex> parse(std::string_view json) {
  return parse_index(std::as_bytes(std::span(json)), "index.json");
}

std::string error_of(std::string_view json) {
  const auto index = parse(json);
  return index ? "parsed" : index.error().message;
}

TEST(Index, SortsShardsAndTensors) {
  const auto index =
      parse(R"({"metadata":{"total_size":1},"weight_map":{"z":"b.safetensors","a":"b.safetensors",)"
            R"("m":"a.safetensors"}})");
  ASSERT_TRUE(index) << index.error().message;
  EXPECT_EQ(index->shards, (std::vector<std::string>{"a.safetensors", "b.safetensors"}));
  ASSERT_EQ(index->entries.size(), 3u);
  EXPECT_EQ(index->entries[0].tensor, "a");
  EXPECT_EQ(index->entries[0].shard, 1u);
  EXPECT_EQ(index->entries[1].tensor, "m");
  EXPECT_EQ(index->entries[1].shard, 0u);
}

TEST(Index, NamesWhatIsWrong) {
  EXPECT_EQ(error_of(R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})"),
            "index.json: a: named twice");
  EXPECT_EQ(error_of(R"({"metadata":{}})"), "index.json: weight_map: found 0 times, expected 1");
  EXPECT_EQ(error_of(R"({"weight_map":{"a":"../x.safetensors"}})"),
            "index.json: a: file \"../x.safetensors\", expected a plain *.safetensors name");
}

TEST(Index, RejectsOddFiles) {
  for (const std::string_view json : {
           "",
           "[]",
           "{",
           R"({"weight_map":[]})",
           R"({"weight_map":{}})",
           R"({"weight_map":{"a":1}})",
           R"({"weight_map":{"a":"x.bin"}})",
           R"({"weight_map":{"a":".safetensors"}})",
           R"({"weight_map":{"a":"/x.safetensors"}})",
           R"({"weight_map":{"a":"x\u0000.safetensors"}})",
           R"({"weight_map":{"":"x.safetensors"}})",
           R"({"weight_map":{"a":"x.safetensors"},"weight_map":{"a":"x.safetensors"}})",
       }) {
    EXPECT_NE(error_of(json), "parsed") << json;
  }
}

TEST(Index, TheLargestOfficialFileIsFast) {
  std::string json = R"({"weight_map":{)";
  for (int i = 0; i < 208'550; ++i) {
    if (i > 0) json += ',';
    json += "\"language_model.model.layers." + std::to_string(i) +
            ".mlp.experts.0.down_proj.weight_packed\":\"model-" + std::to_string(i % 64) +
            ".safetensors\"";
  }
  const auto index = parse(json + "}}");
  ASSERT_TRUE(index) << index.error().message;
  EXPECT_EQ(index->entries.size(), 208'550u);
  EXPECT_EQ(index->shards.size(), 64u);
}

}  // namespace
}  // namespace conclave::formats
