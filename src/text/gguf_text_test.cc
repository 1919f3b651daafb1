#include "text/gguf_text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "formats/test_gguf.h"
#include "text/text.h"

namespace conclave::text {
namespace {

using formats::GgufBuilder;

std::filesystem::path write(const GgufBuilder& file) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "text.gguf";
  file.write(path);
  return path;
}

// Bytes that stand for themselves, and a few merges.
GgufBuilder byte_level(const std::string& pre) {
  GgufBuilder file;
  file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
  file.texts("tokenizer.ggml.tokens", {"a", "b", "ab", "Ġ", "Ġab", "1", "2", "12", "<|im_end|>",
                                       "<think>", "[PAD10]", "B", "aB"});
  file.list<std::int32_t>("tokenizer.ggml.token_type", {1, 1, 1, 1, 1, 1, 1, 1, 3, 4, 5, 1, 1});
  file.texts("tokenizer.ggml.merges", {"a b", "Ġ ab", "1 2", "a B"});
  file.count("tokenizer.ggml.eos_token_id", 8).count("tokenizer.ggml.bos_token_id", 99);
  file.text("tokenizer.chat_template", "{{ messages[0].content }}<|im_end|>");
  return file;
}

std::vector<std::uint32_t> ids(const TextModel& text, std::string_view input) {
  std::vector<std::uint32_t> out;
  const auto encoded = text.encode(input, Specials::kAllowed);
  if (!encoded) {
    ADD_FAILURE() << encoded.error().message;
    return out;
  }
  for (const TokenId id : *encoded) out.push_back(id.value);
  return out;
}

TEST(GgufText, ByteLevelTokens) {
  const auto text = TextModel::load(write(byte_level("qwen2")), 16);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(ids(*text, "ab ab<|im_end|>"), (std::vector<std::uint32_t>{2, 4, 8}));
  EXPECT_EQ(ids(*text, "12"), (std::vector<std::uint32_t>{5, 6}));  // each digit alone
  const auto glm = TextModel::load(write(byte_level("glm4")), 16);
  ASSERT_TRUE(glm) << glm.error().message;
  EXPECT_EQ(ids(*glm, "12"), (std::vector<std::uint32_t>{7}));
}

// Digits alone or in threes; words cut before a capital, or not.
TEST(GgufText, PreTokenizersCutTextEachInItsWay) {
  using Ids = std::vector<std::uint32_t>;
  struct Case {
    const char* pre;
    bool digits_alone, cut_before_capitals;
  };
  const Case cases[] = {
      {"kimi-k2", false, true},      {"deepseek-v3", false, false},
      {"deepseek-llm", true, false}, {"qwen2", true, false},
      {"glm4", false, false},        {"chatglm-bpe", false, false},
      {"llama-bpe", false, false},   {"gpt-4o", false, true},
      {"gpt-2", false, false},       {"deepseek-r1-qwen", true, false},
      {"glm5", false, false},
  };
  for (const Case& c : cases) {
    const auto text = TextModel::load(write(byte_level(c.pre)), 16);
    ASSERT_TRUE(text) << c.pre << ": " << text.error().message;
    EXPECT_EQ(ids(*text, "ab ab"), (Ids{2, 4})) << c.pre;
    EXPECT_EQ(ids(*text, "12"), c.digits_alone ? (Ids{5, 6}) : (Ids{7})) << c.pre;
    // A whole piece that is a token is one; cut, it is two.
    EXPECT_EQ(ids(*text, "aBab"), c.cut_before_capitals ? (Ids{0, 11, 2}) : (Ids{12, 2})) << c.pre;
  }
}

TEST(GgufText, SpecialsStopsAndTemplate) {
  GgufBuilder file = byte_level("qwen2");
  file.number("general.sampling.temp", 0.6f).count("general.sampling.top_k", 20);
  file.text("general.name", "Kimi-K2.6").count("tokenizer.ggml.eot_token_id", 8);
  const auto gguf = formats::open_gguf(write(file));
  ASSERT_TRUE(gguf && *gguf);
  const auto found = checkpoint_text_from_gguf(**gguf);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->added_tokens.size(), 2u);
  EXPECT_TRUE(found->added_tokens.at(8).special);
  EXPECT_FALSE(found->added_tokens.at(9).special);
  EXPECT_EQ(found->named_tokens.at("eos_token"), "<|im_end|>");
  EXPECT_FALSE(found->named_tokens.contains("bos_token"));
  EXPECT_EQ(found->stop_ids, (std::vector<std::uint32_t>{8, 8, 8}));  // doubles are left in
  EXPECT_EQ(found->chat_template, "{{ messages[0].content }}<|im_end|>");
  EXPECT_TRUE(found->typescript_tools);
  EXPECT_EQ(found->generation_defaults.dump(), R"({"temperature":0.6,"top_k":20})");
}

// SentencePiece: scores instead of merges, bytes for what is unknown.
TEST(GgufText, SentencePieces) {
  GgufBuilder file;
  file.text("tokenizer.ggml.model", "llama");
  file.texts("tokenizer.ggml.tokens",
             {"<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab", "▁ab", "▁a"});
  file.list<std::int32_t>("tokenizer.ggml.token_type", {2, 3, 3, 6, 1, 1, 1, 1, 1, 1});
  file.list<float>("tokenizer.ggml.scores", {0, 0, 0, 0, -9, -8, -7, -2, -1, -3});
  const auto text = TextModel::load(write(file), 10);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(ids(*text, "ab"), (std::vector<std::uint32_t>{8}));
  EXPECT_EQ(ids(*text, "ab\n"), (std::vector<std::uint32_t>{8, 3}));
  EXPECT_EQ(ids(*text, "ab ab"), (std::vector<std::uint32_t>{8, 8}));
}

TEST(GgufText, ErrorsNameTheFile) {
  EXPECT_EQ(TextModel::load(write(byte_level("starcoder")), 16).error().message.substr(0, 59),
            "text.gguf: tokenizer.ggml.pre: \"starcoder\", expected one of");
  GgufBuilder none;
  none.text("tokenizer.ggml.model", "gpt2");
  EXPECT_EQ(TextModel::load(write(none), 16).error().message,
            "text.gguf: no tokenizer.ggml.tokens");
  GgufBuilder bert;
  bert.text("tokenizer.ggml.model", "bert").texts("tokenizer.ggml.tokens", {"a"});
  EXPECT_EQ(TextModel::load(write(bert), 16).error().message,
            "text.gguf: tokenizer.ggml.model: \"bert\", expected \"gpt2\" or \"llama\"");
  GgufBuilder no_merges;
  no_merges.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
  no_merges.texts("tokenizer.ggml.tokens", {"a"});
  EXPECT_EQ(TextModel::load(write(no_merges), 16).error().message,
            "text.gguf: no tokenizer.ggml.merges");
  GgufBuilder nan;
  nan.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", {"a", "b"});
  nan.list<float>("tokenizer.ggml.scores", {0.0f, std::nanf("")});
  EXPECT_EQ(TextModel::load(write(nan), 16).error().message,
            "text.gguf: tokenizer.ggml.scores: [1] is NaN or infinite, expected a finite number");
  GgufBuilder uneven;
  uneven.text("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.tokens", {"a", "b"});
  uneven.list<std::int32_t>("tokenizer.ggml.token_type", {1});
  EXPECT_FALSE(TextModel::load(write(uneven), 16));
}

}  // namespace
}  // namespace conclave::text
