#include "apps/token_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace conclave::apps {
namespace {

TEST(TokenLoss, IsTheLogarithmOfTheProbability) {
  const std::vector<float> logits = {std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  EXPECT_NEAR(token_loss(logits, TokenId{0}), std::log(8.0), 1e-6);
  EXPECT_NEAR(token_loss(logits, TokenId{2}), std::log(8.0 / 5.0), 1e-6);
}

TEST(TokenLoss, LargeLogitsDoNotOverflow) {
  const std::vector<float> logits = {1000.0f, 1000.0f};
  EXPECT_NEAR(token_loss(logits, TokenId{1}), std::log(2.0), 1e-12);
}

}  // namespace
}  // namespace conclave::apps
