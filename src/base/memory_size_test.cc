#include "base/memory_size.h"

#include <gtest/gtest.h>

#include <fstream>

namespace conclave {
namespace {

class MemoryLimit : public testing::Test {
 protected:
  MemoryLimit() { std::filesystem::remove_all(mount_); }
  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((mount_ / file).parent_path());
    std::ofstream(mount_ / file) << text;
  }

  const std::filesystem::path mount_ = testing::TempDir() + "memory_size_test";
};

TEST_F(MemoryLimit, VersionTwoTakesTheSmallestOnTheWayUp) {
  write("user.slice/memory.max", "3000\n");
  write("user.slice/app.service/memory.max", "max\n");
  EXPECT_EQ(memory_limit_bytes("0::/user.slice/app.service\n", mount_), 3000u);
  write("user.slice/app.service/memory.max", "2000\n");
  EXPECT_EQ(memory_limit_bytes("0::/user.slice/app.service\n", mount_), 2000u);
  EXPECT_EQ(memory_limit_bytes("0::/user.slice\n", mount_), 3000u);
  EXPECT_EQ(memory_limit_bytes("0::/\n", mount_), std::nullopt);
}

TEST_F(MemoryLimit, VersionOneHasAFolderForMemory) {
  write("memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("memory/docker/memory.limit_in_bytes", "5000\n");
  EXPECT_EQ(memory_limit_bytes("5:cpu,cpuacct:/\n4:hugetlb,memory:/docker\n", mount_), 5000u);
  EXPECT_EQ(memory_limit_bytes("5:cpu:/docker\n", mount_), std::nullopt);
}

TEST_F(MemoryLimit, BothVersionsGiveTheSmaller) {
  write("memory/a/memory.limit_in_bytes", "5000\n");
  write("b/memory.max", "4000\n");
  EXPECT_EQ(memory_limit_bytes("4:memory:/a\n0::/b\n", mount_), 4000u);
}

// A container without a namespace of groups sees the host's path, but its own folder mounted.
TEST_F(MemoryLimit, AContainersLimitStandsAtTheRoot) {
  write("memory.max", "7000\n");
  EXPECT_EQ(memory_limit_bytes("0::/system.slice/docker-1234.scope\n", mount_), 7000u);
  EXPECT_EQ(memory_limit_bytes("0::/../../other\n", mount_), 7000u);
}

TEST_F(MemoryLimit, WhatCannotBeReadIsNoLimit) {
  write("a/memory.max", "many\n");
  for (const char* groups : {"", "\n", "0", "0:", "0:memory", "0::", "0::/a\n", "0::/none\n"}) {
    EXPECT_EQ(memory_limit_bytes(groups, mount_), std::nullopt) << groups;
  }
}

TEST(MemorySize, ThisMachineHasSome) {
  const std::optional<std::uint64_t> size = memory_size_bytes();
  ASSERT_TRUE(size);
  EXPECT_GT(*size, std::uint64_t{64} << 20);
}

}  // namespace
}  // namespace conclave
