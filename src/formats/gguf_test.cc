#include <gtest/gtest.h>

#include <algorithm>

#include "formats/formats.h"
#include "formats/test_gguf.h"

namespace conclave::formats {
namespace {

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string error_of(const std::string& bytes) {
  const auto parsed = parse_gguf(as_bytes(bytes), "x.gguf");
  return parsed ? "no error" : parsed.error().message;
}

GgufBuilder sample() {
  GgufBuilder file;
  file.text("general.architecture", "qwen3moe").count("qwen3moe.block_count", 2);
  file.number("qwen3moe.eps", 1e-6f).flag("qwen3moe.norm", true);
  file.texts("tokens", {"a", "", "long"}).list<std::int32_t>("types", {1, 3, -1});
  file.list<float>("scores", {0.5f});
  file.tensor("token_embd.weight", 8, {2, 32}, std::string(2 * 34, '\1'));
  file.tensor("output_norm.weight", 0, {3}, std::string(12, '\2'));
  return file;
}

TEST(Gguf, ReadsMetadataAndTensors) {
  const std::string bytes = sample().bytes();
  const auto parsed = parse_gguf(as_bytes(bytes), "x.gguf");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->metadata.size(), 7u);
  ASSERT_EQ(parsed->tensors.size(), 2u);
  const Tensor& embedding = parsed->tensors[0];
  EXPECT_EQ(embedding.name, "token_embd.weight");
  EXPECT_EQ(embedding.dtype, DType::kQ8_0);
  EXPECT_EQ(embedding.shape, (std::vector<std::size_t>{2, 32}));
  EXPECT_EQ(embedding.bytes.size(), 68u);
  EXPECT_EQ(parsed->tensors[1].bytes.front(), std::byte{2});
  EXPECT_LE(parsed->header_bytes, bytes.size());
  EXPECT_TRUE(parse_gguf(as_bytes(sample().bytes(2)), "x.gguf"));
}

TEST(Gguf, ValuesByKey) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "values.gguf";
  sample().write(path);
  const auto gguf = Gguf::open({path});
  ASSERT_TRUE(gguf) << gguf.error().message;
  EXPECT_EQ(*gguf->count("qwen3moe.block_count"), 2u);
  EXPECT_EQ(gguf->count("nothing").error().message,
            "values.gguf: nothing: missing, expected a whole number");
  EXPECT_EQ(gguf->count("scores").error().message,
            "values.gguf: scores: a list of 1, expected a whole number");
  EXPECT_EQ(*gguf->count_if_there("nothing"), std::nullopt);
  EXPECT_FLOAT_EQ(static_cast<float>(**gguf->number_if_there("qwen3moe.eps")), 1e-6f);
  EXPECT_EQ(**gguf->number_if_there("qwen3moe.block_count"), 2.0);
  EXPECT_TRUE(**gguf->flag_if_there("qwen3moe.norm"));
  EXPECT_FALSE(gguf->flag_if_there("tokens"));
  EXPECT_EQ(**gguf->text_if_there("general.architecture"), "qwen3moe");
  EXPECT_EQ(*gguf->texts("tokens"), (std::vector<std::string_view>{"a", "", "long"}));
  EXPECT_FALSE(gguf->texts("types"));
  EXPECT_EQ(*gguf->integers("types"), (std::vector<std::int64_t>{1, 3, -1}));
  EXPECT_FALSE(gguf->integers("scores"));
  EXPECT_EQ(*gguf->floats("scores"), std::vector<float>{0.5f});
  EXPECT_TRUE(gguf->floats("nothing")->empty());
  EXPECT_TRUE(gguf->has_tensor("output_norm.weight"));
  EXPECT_FALSE(gguf->has_tensor("output.weight"));
}

// Cut anywhere it is an error, not a crash.
TEST(Gguf, EveryCutIsAnError) {
  const std::string bytes = sample().bytes();
  for (std::size_t size = 0; size + 20 < bytes.size(); ++size) {
    EXPECT_FALSE(parse_gguf(as_bytes(bytes.substr(0, size)), "x.gguf")) << size;
  }
}

TEST(Gguf, ErrorsSayWhere) {
  EXPECT_EQ(error_of("GGML....").substr(0, 45), "x.gguf: byte 4: does not start with GGUF");
  EXPECT_NE(error_of(sample().bytes(1)).find("version 1, expected 2 or 3"), std::string::npos);
  GgufBuilder twice;
  twice.count("key", 1).count("key", 2);
  EXPECT_NE(error_of(twice.bytes()).find("key key twice"), std::string::npos);
  GgufBuilder odd;
  odd.tensor("t", 12, {1, 100}, std::string(144, ' '));
  EXPECT_NE(error_of(odd.bytes()).find("t: Q4_K [1, 100] is too large or not in whole blocks"),
            std::string::npos);
  GgufBuilder unknown;
  unknown.tensor("t", 11, {1, 256}, std::string(110, ' '));
  EXPECT_NE(error_of(unknown.bytes()).find("t: type 11, expected F32"), std::string::npos);
  GgufBuilder beyond;
  beyond.tensor("t", 0, {1000}, std::string(8, ' '));
  EXPECT_NE(error_of(beyond.bytes()).find("t: 4000 bytes reach beyond the file's"),
            std::string::npos);
  GgufBuilder alignment;
  alignment.count("general.alignment", 3).tensor("t", 0, {1}, "1234");
  EXPECT_NE(error_of(alignment.bytes()).find("general.alignment 3"), std::string::npos);
  GgufBuilder huge;
  huge.tensor("t", 0, {std::uint64_t{1} << 40, std::uint64_t{1} << 40}, "");
  EXPECT_NE(error_of(huge.bytes()), "no error");
}

TEST(Gguf, TensorsDoNotOverlap) {
  GgufBuilder file;
  file.tensor("a", 0, {8}, "").tensor("b", 0, {8}, std::string(32, ' '));
  EXPECT_NE(error_of(file.bytes()).find("overlaps"), std::string::npos);
}

}  // namespace
}  // namespace conclave::formats
