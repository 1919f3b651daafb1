#include "cluster/weight_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

namespace conclave::cluster {
namespace {

using backend::SharedMemory;

constexpr std::size_t kBytes = (std::size_t{9} << 20) + 77;  // more than one chunk
constexpr std::uint64_t kKey = 0x1234;

class WeightCacheTest : public testing::Test {
 public:
  ~WeightCacheTest() override { std::filesystem::remove_all(dir_); }

 protected:
  WeightCacheTest() {
    for (std::size_t i = 0; i < kBytes; ++i) {
      arena_.bytes()[i] = static_cast<std::byte>(i * 2654435761u >> 13);
    }
    arena_.set_filled_key(kKey);
  }
  static bool go_on(std::uint64_t) { return true; }
  std::filesystem::path file() const { return dir_ / "slice-a.packed"; }
  void spoil(std::uint64_t offset) const {
    std::fstream out(file(), std::ios::binary | std::ios::in | std::ios::out);
    out.seekg(static_cast<std::streamoff>(offset));
    const int byte = out.get();
    out.seekp(static_cast<std::streamoff>(offset));
    out.put(static_cast<char>(byte ^ 1));
  }

  std::filesystem::path dir_ = std::filesystem::temp_directory_path() /
                               (std::string("conclave_cache_") +
                                testing::UnitTest::GetInstance()->current_test_info()->name());
  WeightCache cache_{dir_};
  SharedMemory arena_ = SharedMemory::create_private(kBytes).value();
  SharedMemory other_ = SharedMemory::create_private(kBytes).value();
};

TEST_F(WeightCacheTest, WhatWasStoredIsLoaded) {
  EXPECT_FALSE(cache_.has("slice-a", arena_));
  std::uint64_t seen = 0;
  const auto stored = cache_.store("slice-a", arena_, [&seen](std::uint64_t bytes) {
    seen += bytes;
    return true;
  });
  ASSERT_TRUE(stored) << stored.error().message;
  EXPECT_EQ(seen, kBytes);
  EXPECT_TRUE(cache_.has("slice-a", arena_));
  const auto loaded = cache_.load("slice-a", other_, go_on);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(other_.filled_key(), kKey);
  EXPECT_TRUE(std::ranges::equal(other_.bytes(), arena_.bytes()));
}

TEST_F(WeightCacheTest, AByteThatChangedIsNoticedAndTheFileGoes) {
  ASSERT_TRUE(cache_.store("slice-a", arena_, go_on));
  spoil(4096 + kBytes - 1);
  const auto loaded = cache_.load("slice-a", other_, go_on);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, ErrorCode::kCorrupt);
  EXPECT_NE(loaded.error().message.find("slice-a.packed"), std::string::npos);
  EXPECT_EQ(other_.filled_key(), 0u);
  EXPECT_EQ(other_.bytes()[5], std::byte{0});
  EXPECT_FALSE(std::filesystem::exists(file()));
  EXPECT_EQ(cache_.load("slice-a", other_, go_on).error().code, ErrorCode::kNotFound);
}

TEST_F(WeightCacheTest, AFileThatIsCutShortIsNoticed) {
  ASSERT_TRUE(cache_.store("slice-a", arena_, go_on));
  std::filesystem::resize_file(file(), 4096 + kBytes - 1);
  EXPECT_EQ(cache_.load("slice-a", other_, go_on).error().code, ErrorCode::kCorrupt);
  ASSERT_TRUE(cache_.store("slice-a", arena_, go_on));
  std::filesystem::resize_file(file(), 100);
  EXPECT_EQ(cache_.load("slice-a", other_, go_on).error().code, ErrorCode::kCorrupt);
  EXPECT_FALSE(std::filesystem::exists(file()));
}

TEST_F(WeightCacheTest, AnotherKeyOrSizeIsAnotherArena) {
  ASSERT_TRUE(cache_.store("slice-a", arena_, go_on));
  arena_.set_filled_key(kKey + 1);
  EXPECT_FALSE(cache_.has("slice-a", arena_));
  SharedMemory larger = SharedMemory::create_private(kBytes + 1).value();
  EXPECT_EQ(cache_.load("slice-a", larger, go_on).error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(std::filesystem::exists(file()));
}

TEST_F(WeightCacheTest, WhatIsEndedLeavesNothingHalf) {
  const auto stop = [](std::uint64_t) { return false; };
  EXPECT_EQ(cache_.store("slice-a", arena_, stop).error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(std::filesystem::is_empty(dir_));
  ASSERT_TRUE(cache_.store("slice-a", arena_, go_on));
  EXPECT_EQ(cache_.load("slice-a", other_, stop).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(other_.filled_key(), 0u);
  EXPECT_EQ(other_.bytes()[5], std::byte{0});
  EXPECT_TRUE(std::filesystem::exists(file()));
}

TEST_F(WeightCacheTest, OnlyWhatIsUsedStays) {
  ASSERT_TRUE(cache_.store("slice-a", arena_, go_on));
  ASSERT_TRUE(cache_.store("slice-b", arena_, go_on));
  std::filesystem::create_directories(dir_ / "skeleton");
  cache_.keep_only({"slice-b"});
  EXPECT_FALSE(std::filesystem::exists(file()));
  EXPECT_TRUE(cache_.has("slice-b", arena_));
  EXPECT_TRUE(std::filesystem::exists(dir_ / "skeleton"));
}

}  // namespace
}  // namespace conclave::cluster
