#include "apps/json_text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace conclave::apps {
namespace {

TEST(BestTokens, BestFirstAndEqualOnesByLowerId) {
  const std::vector<float> logits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};
  EXPECT_EQ(best_tokens(logits, 3), (std::vector<TokenId>{{1}, {3}, {2}}));
}

TEST(BestTokens, MoreThanTheVocabularyIsAll) {
  const std::vector<float> logits = {1.0f, 3.0f};
  EXPECT_EQ(best_tokens(logits, 100), (std::vector<TokenId>{{1}, {0}}));
}

TEST(PositionJson, GivesFloatsBackExactly) {
  const std::vector<float> logits = {0.1f, -12345.678f, 1e-20f, 3.0f, 16777217.0f};
  const std::vector<TokenId> ids = best_tokens(logits, 5);
  const auto json = nlohmann::json::parse(position_json(logits, ids));
  ASSERT_EQ(json["ids"].size(), 5u);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(json["ids"][i].get<std::uint32_t>(), ids[i].value);
    EXPECT_EQ(json["logits"][i].get<float>(), logits[ids[i].value]);
  }
}

TEST(ExpertsJson, GroupsByLayer) {
  const std::vector<ExpertId> experts = {{1}, {3}, {0}, {7}};
  EXPECT_EQ(experts_json(experts, 2), "[[1,3],[0,7]]");
  EXPECT_EQ(experts_json({}, 2), "[]");
}

}  // namespace
}  // namespace conclave::apps
