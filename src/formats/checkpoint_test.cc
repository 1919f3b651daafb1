#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <string>

#include "formats/formats.h"

namespace conclave::formats {
namespace {

// A safetensors file with one U8 tensor of four bytes per name.
std::string shard_of(const std::vector<std::string>& names) {
  std::string header = "{";
  std::string data;
  for (const std::string& name : names) {
    if (!data.empty()) header += ',';
    header += "\"" + name + R"(":{"dtype":"U8","shape":[4],"data_offsets":[)" +
              std::to_string(data.size()) + "," + std::to_string(data.size() + 4) + "]}";
    data += name.substr(0, 1) + "123";
  }
  header += '}';
  const std::uint64_t size = header.size();
  std::string file(sizeof size, '\0');
  std::memcpy(file.data(), &size, sizeof size);
  return file + header + data;
}

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    const testing::TestInfo& info = *testing::UnitTest::GetInstance()->current_test_info();
    dir_ = std::filesystem::path(testing::TempDir()) / (std::string("checkpoint_") + info.name());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(dir_ / name, std::ios::binary) << bytes;
  }
  std::string error() const {
    const auto checkpoint = Checkpoint::open(dir_);
    return checkpoint ? "opened" : checkpoint.error().message;
  }

  std::filesystem::path dir_;
};

constexpr const char* kIndex = "model.safetensors.index.json";

TEST_F(CheckpointTest, OpensASingleFile) {
  write("model.safetensors", shard_of({"b", "a"}));
  const auto checkpoint = Checkpoint::open(dir_);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  ASSERT_NE(checkpoint->find("a"), nullptr);
  EXPECT_EQ(checkpoint->find("a")->bytes[0], std::byte{'a'});
  EXPECT_EQ(checkpoint->find("c"), nullptr);
  EXPECT_EQ(checkpoint->tensors().front().name, "a");
  EXPECT_EQ(checkpoint->total_bytes(), 8u);
}

TEST_F(CheckpointTest, OpensShardsAndKeepsBytesAfterDrop) {
  write("x.safetensors", shard_of({"a", "c"}));
  write("y.safetensors", shard_of({"b"}));
  write(kIndex, R"({"weight_map":{"a":"x.safetensors","b":"y.safetensors","c":"x.safetensors"}})");
  auto opened = Checkpoint::open(dir_);
  ASSERT_TRUE(opened) << opened.error().message;
  const Checkpoint checkpoint = std::move(*opened);
  for (const Tensor& tensor : checkpoint.tensors()) {
    checkpoint.drop(tensor.bytes);
    EXPECT_EQ(static_cast<char>(tensor.bytes[0]), tensor.name[0]);
  }
  EXPECT_EQ(checkpoint.find("b")->file->path().filename(), "y.safetensors");
}

TEST_F(CheckpointTest, IndexAndShardsMustAgree) {
  write("x.safetensors", shard_of({"a", "c"}));
  write("y.safetensors", shard_of({"b"}));
  write(kIndex, R"({"weight_map":{"a":"x.safetensors","b":"y.safetensors"}})");
  EXPECT_EQ(error(), "x.safetensors: c: not named in model.safetensors.index.json");
  write(kIndex, R"({"weight_map":{"a":"x.safetensors","b":"x.safetensors","c":"x.safetensors",)"
                R"("d":"y.safetensors"}})");
  EXPECT_EQ(error(), "y.safetensors: b: expected in x.safetensors by model.safetensors.index.json");
  write(kIndex, R"({"weight_map":{"a":"x.safetensors","b":"y.safetensors","c":"x.safetensors",)"
                R"("d":"y.safetensors"}})");
  EXPECT_EQ(error(), "y.safetensors: d: missing, expected by model.safetensors.index.json");
}

TEST_F(CheckpointTest, ATensorInTwoShardsIsAnError) {
  write("x.safetensors", shard_of({"a"}));
  write("y.safetensors", shard_of({"a", "b"}));
  write(kIndex, R"({"weight_map":{"a":"x.safetensors","b":"y.safetensors"}})");
  EXPECT_NE(error().find(": a: also in "), std::string::npos) << error();
}

TEST_F(CheckpointTest, MissingFilesAreNamed) {
  EXPECT_NE(error().find("neither model.safetensors.index.json nor model.safetensors"),
            std::string::npos);
  write(kIndex, R"({"weight_map":{"a":"x.safetensors"}})");
  EXPECT_NE(error().find("x.safetensors: cannot open"), std::string::npos) << error();
}

TEST_F(CheckpointTest, TwoSetsOfWeightsAreAnError) {
  write("model.safetensors", shard_of({"a"}));
  write("x.safetensors", shard_of({"a"}));
  write(kIndex, R"({"weight_map":{"a":"x.safetensors"}})");
  EXPECT_NE(error().find("remove one of them"), std::string::npos) << error();
}

}  // namespace
}  // namespace conclave::formats
