#include <gtest/gtest.h>

#include <fstream>

#include "hub/folder.h"
#include "hub/hub.h"

namespace conclave::hub {
namespace {

namespace fs = std::filesystem;

class StoreTest : public testing::Test {
 protected:
  void SetUp() override {
    const testing::TestInfo& info = *testing::UnitTest::GetInstance()->current_test_info();
    base_ = fs::path(testing::TempDir()) / (std::string("hub_") + info.name());
    fs::remove_all(base_);
    fs::create_directories(base_ / "disk");
    write("config.json", "{}");
    write("model.safetensors", std::string(100'000, 'w'));
    write("holiday.jpg", "not a model's");
  }
  void TearDown() override { fs::remove_all(base_); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(base_ / "disk" / name, std::ios::binary) << text;
  }
  Result<PullReport> add(const std::string& name = "a/b") const {
    return store().add(*parse_model_name(name), base_ / "disk", kGoOn);
  }
  Store store() const { return Store(base_ / "store"); }

  static constexpr auto kGoOn = [](std::uint64_t, std::uint64_t) { return true; };
  const ModelName name_ = *parse_model_name("a/b");
  fs::path base_;
};

TEST_F(StoreTest, AFolderBecomesAModelThatCanBeListedVerifiedAndRemoved) {
  const auto added = add();
  ASSERT_TRUE(added) << added.error().message;
  EXPECT_EQ(added->dir, base_ / "store/a/b");
  EXPECT_TRUE(fs::exists(added->dir / "model.safetensors"));
  EXPECT_FALSE(fs::exists(added->dir / "holiday.jpg"));
  ASSERT_EQ(store().list().size(), 1u);
  EXPECT_EQ(store().list()[0].name.text(), "a/b");
  EXPECT_TRUE(store().list()[0].complete);
  EXPECT_TRUE(store().verify(name_, kGoOn)->empty());
  EXPECT_FALSE(add()) << "there already";

  EXPECT_GT(*store().remove(name_), 100'000u);
  EXPECT_TRUE(store().list().empty());
  EXPECT_FALSE(fs::exists(base_ / "store/a"));
  EXPECT_FALSE(store().remove(name_));
  EXPECT_FALSE(store().verify(name_, kGoOn));
}

TEST_F(StoreTest, VerifyNamesWhatIsWrong) {
  const fs::path dir = add()->dir;
  {
    std::fstream file(dir / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(50'000);
    file << 'X';
  }
  EXPECT_EQ(*store().verify(name_, kGoOn),
            std::vector<std::string>{"model.safetensors: damaged: another hash"});
  std::ofstream(dir / "model.safetensors", std::ios::app) << "more";
  fs::remove(dir / "config.json");
  const std::vector<std::string> problems = *store().verify(name_, kGoOn);
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_EQ(problems[0], "config.json: missing");
  EXPECT_EQ(problems[1], "model.safetensors: 100004 bytes, expected 100000");
}

TEST_F(StoreTest, OnlyAWholeModelAppears) {
  const auto stopped =
      store().add(name_, base_ / "disk", [](std::uint64_t, std::uint64_t) { return false; });
  ASSERT_FALSE(stopped);
  EXPECT_FALSE(fs::exists(base_ / "store/a/b"));
  EXPECT_TRUE(store().list().empty());
  fs::create_directories(base_ / "store/a/b.partial");  // a pull that was broken off
  ASSERT_EQ(store().list().size(), 1u);
  EXPECT_FALSE(store().list()[0].complete);
  EXPECT_FALSE(add()) << "a pull goes on with it";
  EXPECT_TRUE(store().remove(name_));
  EXPECT_TRUE(store().list().empty());
}

TEST_F(StoreTest, TwoDoNotWorkOnOneModel) {
  const auto lock = lock_model(base_ / "store/a/b", name_);
  ASSERT_TRUE(lock);
  EXPECT_NE(add().error().message.find("another conclave"), std::string::npos);
  EXPECT_TRUE(add("a/c"));
}

TEST_F(StoreTest, WhatIsNoModelIsRefused) {
  fs::remove(base_ / "disk/config.json");
  EXPECT_FALSE(add());
  EXPECT_FALSE(store().add(name_, base_ / "nothing", kGoOn));
  EXPECT_FALSE(check_space(base_, std::uint64_t{1} << 62));
  EXPECT_TRUE(check_space(base_, 1));
}

TEST_F(StoreTest, FilesThatSystemsLeaveBehindAreNoModels) {
  write("._model.safetensors", "of a Mac");
  const auto added = add();
  ASSERT_TRUE(added) << added.error().message;
  EXPECT_TRUE(store().verify(name_, kGoOn)->empty());
  write("my model.safetensors", "x");
  EXPECT_NE(add("a/c").error().message.find("my model.safetensors"), std::string::npos);
}

TEST_F(StoreTest, OnlyWhatItBroughtIsItsOwn) {
  fs::create_directories(base_ / "store/a/b");
  std::ofstream(base_ / "store/a/b/config.json") << "{}";
  EXPECT_TRUE(store().list().empty());
  EXPECT_FALSE(store().remove(name_));
  EXPECT_TRUE(fs::exists(base_ / "store/a/b/config.json"));
}

TEST_F(StoreTest, AStrangeManifestIsAnError) {
  const fs::path dir = add()->dir;
  std::ofstream(dir / kManifestName) << "{\"files\": 3}";
  EXPECT_EQ(store().verify(name_, kGoOn).error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace conclave::hub
