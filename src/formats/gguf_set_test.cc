#include <gtest/gtest.h>

#include "formats/formats.h"
#include "formats/test_gguf.h"

namespace conclave::formats {
namespace {

namespace fs = std::filesystem;

class GgufSet : public testing::Test {
 protected:
  GgufSet() {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  void put(const std::string& name) const { GgufBuilder().count("x", 1).write(dir_ / name); }

  fs::path dir_ = fs::path(testing::TempDir()) / "gguf_set";
};

TEST_F(GgufSet, OneFileInAFolderOrByName) {
  put("model.gguf");
  put("mmproj-model.gguf");
  const auto found = find_gguf(dir_);
  ASSERT_TRUE(found && *found);
  EXPECT_EQ((**found), std::vector<fs::path>{dir_ / "model.gguf"});
  EXPECT_EQ(**find_gguf(dir_ / "model.gguf"), std::vector<fs::path>{dir_ / "model.gguf"});
  EXPECT_EQ(folder_of(dir_ / "model.gguf"), dir_);
  EXPECT_EQ(folder_of(dir_), dir_);
}

TEST_F(GgufSet, SplitFilesComeInOrder) {
  for (const char* name : {"m-00002-of-00003.gguf", "m-00001-of-00003.gguf"}) put(name);
  EXPECT_EQ(find_gguf(dir_).error().message,
            dir_.string() + ": m-00003-of-00003.gguf is missing; 3 parts are needed");
  put("m-00003-of-00003.gguf");
  const auto files = **find_gguf(dir_ / "m-00002-of-00003.gguf");
  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(files.front().filename(), "m-00001-of-00003.gguf");
}

TEST_F(GgufSet, SeveralModelsAreToBeNamed) {
  put("a-Q4.gguf");
  put("b-Q8.gguf");
  const std::string message = find_gguf(dir_).error().message;
  EXPECT_NE(message.find("2 models in .gguf files; name the file that is meant, as a-Q4.gguf"),
            std::string::npos)
      << message;
  EXPECT_TRUE(find_gguf(dir_ / "b-Q8.gguf"));
}

TEST_F(GgufSet, SafetensorsComeFirstAndOtherFilesAreNone) {
  EXPECT_FALSE(find_gguf(dir_)->has_value());
  put("model.gguf");
  std::ofstream(dir_ / "model.safetensors") << "x";
  EXPECT_FALSE(find_gguf(dir_)->has_value());
  EXPECT_FALSE(find_gguf(dir_ / "model.safetensors"));
}

// As converters split them: metadata alone in the first file.
TEST_F(GgufSet, AFirstPartWithoutTensorsIsOneOfTheFiles) {
  put("m-00001-of-00002.gguf");
  GgufBuilder().tensor("output_norm.weight", 0, {1}, "1234").write(dir_ / "m-00002-of-00002.gguf");
  const auto checkpoint = Checkpoint::open(dir_);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  ASSERT_EQ(checkpoint->files().size(), 2u);
  EXPECT_EQ(checkpoint->files()[0].file->path().filename(), "m-00001-of-00002.gguf");
  EXPECT_EQ(checkpoint->files()[0].header_bytes, checkpoint->files()[0].file->bytes().size());
}

TEST_F(GgufSet, OtherFilesAndOldSplitsAreNotTaken) {
  put("m-00001-of-00002.gguf");
  put("m-00002-of-00002.gguf");
  for (const char* other : {"mmproj-m.gguf", "mtp-m.gguf", "m.imatrix.gguf"}) put(other);
  fs::create_directory(dir_ / "folder.gguf");
  EXPECT_EQ(gguf_sets_in(dir_).size(), 1u);
  EXPECT_EQ(folder_of(dir_ / "folder.gguf"), dir_ / "folder.gguf");
  put("m-00001-of-00003.gguf");
  EXPECT_EQ(gguf_sets_in(dir_).size(), 2u);
  put("m-00009-of-00003.gguf");  // names no part: a file by itself
  EXPECT_EQ(gguf_sets_in(dir_).size(), 3u);
}

TEST_F(GgufSet, NamesOfModels) {
  EXPECT_EQ(model_name("x/m-00001-of-00002.gguf"), "m");
  EXPECT_EQ(model_name("m-Q4_K_M.gguf"), "m-Q4_K_M");
  EXPECT_EQ(model_name(dir_), "gguf_set");
  EXPECT_EQ(folder_of("m.gguf"), ".");
}

TEST_F(GgufSet, TensorsOfAllPartsUnderOneRoof) {
  GgufBuilder()
      .count("x", 1)
      .tensor("output_norm.weight", 0, {1}, "1234")
      .write(dir_ / "m-00001-of-00002.gguf");
  GgufBuilder()
      .tensor("blk.0.attn_norm.weight", 0, {1}, "5678")
      .write(dir_ / "m-00002-of-00002.gguf");
  const auto checkpoint = Checkpoint::open(dir_);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_TRUE(checkpoint->is_gguf());
  EXPECT_EQ(checkpoint->total_bytes(), 8u);
  const Tensor* norm = checkpoint->find("model.layers.0.input_layernorm.weight");
  ASSERT_NE(norm, nullptr);
  EXPECT_EQ(norm->name_in_file(), "blk.0.attn_norm.weight");
  EXPECT_EQ(norm->file->path().filename(), "m-00002-of-00002.gguf");
  checkpoint->drop(norm->bytes);
}

}  // namespace
}  // namespace conclave::formats
