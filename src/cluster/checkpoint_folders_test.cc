#include "cluster/checkpoint_folders.h"

#include <gtest/gtest.h>

#include <fstream>

namespace conclave::cluster {
namespace {

TEST(CheckpointFolders, AFolderIsACheckpointOrHasSome) {
  const std::filesystem::path ember = "models/ember";
  EXPECT_EQ(checkpoints_in(ember), std::vector{ember});
  EXPECT_EQ(checkpoints_in("models"), std::vector{ember});
  EXPECT_TRUE(checkpoints_in("/nonexistent").empty());
}

TEST(CheckpointFolders, GgufFilesLieInFoldersOrSideBySide) {
  const auto dir = std::filesystem::temp_directory_path() / "conclave_gguf_folders";
  std::filesystem::remove_all(dir);
  for (const char* name : {"a.gguf", "b-00001-of-00001.gguf", "sub/c.gguf", "sub/d.gguf"}) {
    std::filesystem::create_directories((dir / name).parent_path());
    std::ofstream(dir / name) << "GGUF";
  }
  std::filesystem::create_directories(dir / "hf");
  std::ofstream(dir / "hf" / "config.json") << "{}";
  EXPECT_EQ(checkpoints_in(dir), (std::vector{dir / "a.gguf", dir / "b-00001-of-00001.gguf",
                                              dir / "hf", dir / "sub/c.gguf", dir / "sub/d.gguf"}));
  EXPECT_EQ(checkpoints_in(dir / "a.gguf"), std::vector{dir / "a.gguf"});
  std::filesystem::remove_all(dir);
}

TEST(CheckpointFolders, WhatDoesNotOpenIsLeftOut) {
  const auto dir = std::filesystem::temp_directory_path() / "conclave_checkpoint_folders";
  std::filesystem::create_directories(dir / "b");
  std::ofstream(dir / "b" / "config.json") << "{";
  std::filesystem::create_directory_symlink(std::filesystem::absolute("models/ember"), dir / "a");
  EXPECT_EQ(checkpoints_in(dir).size(), 2u);
  const auto sources = open_checkpoints({dir, "/nonexistent"});
  ASSERT_EQ(sources.size(), 1u);
  EXPECT_EQ(sources[0].config().n_layers, 8u);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace conclave::cluster
