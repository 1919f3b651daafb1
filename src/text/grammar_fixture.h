// Drives a grammar over the built-in model's vocabulary.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "text/test_checkpoint.h"

namespace conclave::text {

class Grammar : public testing::Test {
 protected:
  GrammarMatcher compiled(const GrammarSpec& spec, std::string_view prompt = "") {
    auto matcher = model_.grammar(spec, ids_of(model_, prompt));
    if (!matcher) ADD_FAILURE() << matcher.error().message;
    return std::move(matcher).value();
  }
  std::vector<bool> allowed(GrammarMatcher& matcher) {
    std::vector<std::uint32_t> words(kEmberVocab / 32);
    EXPECT_TRUE(matcher.fill_mask(words));
    std::vector<bool> out(kEmberVocab);
    for (std::size_t id = 0; id < kEmberVocab; ++id) out[id] = words[id / 32] >> (id % 32) & 1u;
    return out;
  }
  // Feeds `text`; each token must be in the mask before it is accepted.
  void expect_follows(GrammarMatcher& matcher, std::string_view text) {
    for (const TokenId id : ids_of(model_, text)) {
      EXPECT_TRUE(allowed(matcher)[id.value]) << model_.token_bytes(id) << " in " << text;
      const auto accepted = matcher.accept(id);
      EXPECT_TRUE(accepted) << (accepted ? "" : accepted.error().message);
    }
  }
  const TextModel model_ = loaded(ember());
  const TokenId end_ = special(model_, "<|im_end|>");
};

}  // namespace conclave::text
