// The loss of one predicted token.
#pragma once

#include <span>

#include "base/ids.h"

namespace conclave::apps {

// -log softmax(logits)[target], in float64.
double token_loss(std::span<const float> logits, TokenId target);

}  // namespace conclave::apps
