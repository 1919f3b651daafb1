// The state behind GrammarMatcher.
#pragma once

#include <conclave-text/src/lib.rs.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "text/text.h"

namespace conclave::text {

struct GrammarMatcher::State {
  rust::Box<rust_bridge::Matcher> matcher;
  std::size_t vocab_size = 0;
  // While the answer still reasons: these bits are allowed, and `end_think` starts the grammar.
  std::optional<TokenId> end_think;
  std::vector<std::uint32_t> reasoning_mask;
};

}  // namespace conclave::text
