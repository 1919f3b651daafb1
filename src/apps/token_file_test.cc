#include "apps/token_file.h"

#include <gtest/gtest.h>

namespace conclave::apps {
namespace {

model::ModelConfig small_config() {
  model::ModelConfig config;
  config.n_layers = 3;
  config.n_dense_layers = 1;
  config.n_experts = 8;
  config.experts_per_token = 2;
  return config;
}

TEST(ParseTokenIds, ReadsAnArray) {
  const auto ids = parse_token_ids("[1, 0, 9]", "f", 10);
  ASSERT_TRUE(ids);
  EXPECT_EQ(*ids, (std::vector<TokenId>{{1}, {0}, {9}}));
}

TEST(ParseTokenIds, ErrorsNameFileAndElement) {
  for (const char* json :
       {"[1, 10]", "[1, -1]", "[1, 1.5]", "[1, \"a\"]", "[1, null]", "[1, []]"}) {
    const auto ids = parse_token_ids(json, "file.json", 10);
    ASSERT_FALSE(ids) << json;
    EXPECT_NE(ids.error().message.find("file.json: element 1"), std::string::npos) << json;
  }
  for (const char* json : {"", "[", "{}", "[]", "7", "[1,]"}) {
    EXPECT_FALSE(parse_token_ids(json, "file.json", 10)) << json;
  }
}

TEST(ParseExperts, FlattensAndSortsWithinALayer) {
  const auto experts = parse_experts("[[[3,1],[0,7]],[[2,5],[6,4]]]", "f", small_config(), 2);
  ASSERT_TRUE(experts);
  EXPECT_EQ(*experts, (std::vector<ExpertId>{{1}, {3}, {0}, {7}, {2}, {5}, {4}, {6}}));
}

TEST(ParseExperts, RefusesWrongShapesAndIds) {
  const model::ModelConfig config = small_config();
  EXPECT_FALSE(parse_experts("[[[0,1],[0,1]]]", "f", config, 2));    // positions
  EXPECT_FALSE(parse_experts("[[[0,1]]]", "f", config, 1));          // layers
  EXPECT_FALSE(parse_experts("[[[0,1,2],[0,1]]]", "f", config, 1));  // k
  EXPECT_FALSE(parse_experts("[[[0,8],[0,1]]]", "f", config, 1));    // id
  EXPECT_FALSE(parse_experts("[[[0,0],[0,1]]]", "f", config, 1));    // twice
  const auto wrong = parse_experts("[[[0,1],[0,9]]]", "f", config, 1);
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("position 0, MoE layer 1"), std::string::npos);
}

}  // namespace
}  // namespace conclave::apps
