#include <gtest/gtest.h>

#include <set>

#include "text/test_checkpoint.h"

namespace conclave::text {
namespace {

TEST(Vocabulary, EmberStopsAndBans) {
  const TextModel model = loaded(ember());
  EXPECT_EQ(model.stop_ids(),
            (std::vector<TokenId>{special(model, "<|im_end|>"), special(model, "[EOS]")}));
  const std::set<TokenId> banned(model.banned_ids().begin(), model.banned_ids().end());
  for (const std::string_view name :
       {"[BOS]", "[PAD]", "[UNK]", "<|media_pad|>", "<|reserved_token_8126|>"}) {
    EXPECT_TRUE(banned.contains(special(model, name))) << name;
  }
  for (const std::string_view name : {"<|im_end|>", "[EOS]", "<think>", "<|tool_call_begin|>"}) {
    EXPECT_FALSE(banned.contains(special(model, name))) << name;
  }
  EXPECT_EQ(model.generation_defaults()["temperature"], 0.6);
  EXPECT_TRUE(model.hidden(special(model, "<|im_end|>")));
  EXPECT_FALSE(model.hidden(special(model, "<think>")));
  EXPECT_EQ(model.token_bytes(TokenId{999'999}), "");
}

TEST(Vocabulary, RoundTripsAnyText) {
  const TextModel model = loaded(ember());
  for (const std::string_view text :
       {"", "Hello, world!", "  a\tb\r\n\n", "中文English混合", "日本語のテキスト", "😀 e\u0301",
        "<|im_end|> [EOS]", "1234567"}) {
    const auto ids = model.encode(text, Specials::kPlain);
    ASSERT_TRUE(ids);
    EXPECT_EQ(model.decode(*ids, true), text);
    for (const TokenId id : *ids) EXPECT_LT(id.value, 7936u) << text;
  }
  EXPECT_EQ(ids_of(model, "<|im_end|>"), std::vector{special(model, "<|im_end|>")});
}

}  // namespace
}  // namespace conclave::text
