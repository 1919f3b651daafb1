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
