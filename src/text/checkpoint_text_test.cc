#include "text/checkpoint_text.h"

#include <gtest/gtest.h>

#include "text/test_checkpoint.h"

namespace conclave::text {
namespace {

std::string error_with(std::string_view file, std::string_view text) {
  const TestFolder folder;
  folder.write(file, text);
  const auto result = read_checkpoint_text(folder.path());
  EXPECT_FALSE(result);
  return result ? "" : result.error().message;
}

TEST(CheckpointText, StopIdsComeFromEveryFile) {
  const TestFolder folder;
  folder.write("generation_config.json", R"({"eos_token_id": [5, 6], "temperature": 0.6})");
  folder.write("config.json", R"({"eos_token_id": 7, "text_config": {"eos_token_id": 8},
                                  "model_type": "kimi_k25"})");
  folder.write("tokenizer_config.json",
               R"({"eos_token": {"content": "<end>"}, "bos_token": null, "chat_template": [
                   {"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}],
                   "added_tokens_decoder": {"9": {"content": "<end>", "special": true}}})");
  const auto read = read_checkpoint_text(folder.path());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->stop_ids, (std::vector<std::uint32_t>{5, 6, 7, 8}));
  EXPECT_EQ(read->named_tokens.at("eos_token"), "<end>");
  EXPECT_FALSE(read->named_tokens.contains("bos_token"));
  EXPECT_EQ(read->added_tokens.at(9).content, "<end>");
  EXPECT_EQ(read->chat_template, "yes");
  EXPECT_EQ(read->generation_defaults["temperature"], 0.6);
  EXPECT_TRUE(read->typescript_tools);
  folder.write("chat_template.jinja", "file");
  EXPECT_EQ(read_checkpoint_text(folder.path())->chat_template, "file");
}

TEST(CheckpointText, OnlyK2_5AndLaterTakeTypescript) {
  const auto typescript = [](std::string_view config) {
    const TestFolder folder;
    folder.write("config.json", config);
    return read_checkpoint_text(folder.path())->typescript_tools;
  };
  EXPECT_FALSE(typescript(R"({"model_type": "kimi_k2"})"));
  EXPECT_FALSE(typescript(R"({"architectures": ["DeepseekV3ForCausalLM"]})"));
  EXPECT_TRUE(typescript(R"({"architectures": ["KimiK25ForConditionalGeneration"]})"));
}

TEST(CheckpointText, BrokenFilesAreNamed) {
  EXPECT_NE(error_with("config.json", "[1]").find("config.json: expected"), std::string::npos);
  EXPECT_NE(error_with("generation_config.json", "{").find("generation_config"), std::string::npos);
  EXPECT_NE(error_with("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {}}})")
                .find("added_tokens_decoder[x]"),
            std::string::npos);
  EXPECT_NE(
      error_with("config.json", "{\"a\":" + std::string(9999, '[') + std::string(9999, ']') + "}")
          .find("nested deeper"),
      std::string::npos);
}

}  // namespace
}  // namespace conclave::text
