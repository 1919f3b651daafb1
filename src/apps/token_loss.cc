#include "apps/token_loss.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace conclave::apps {

double token_loss(std::span<const float> logits, TokenId target) {
  CHECK(target.value < logits.size());
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + largest - static_cast<double>(logits[target.value]);
}

}  // namespace conclave::apps
