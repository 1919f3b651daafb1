#include "cluster/state_dir.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <fstream>
#include <string>

namespace conclave::cluster {
namespace {

namespace fs = std::filesystem;

class StateDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "conclave-state-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  static mode_t mode_of(const fs::path& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return info.st_mode & 0777;
  }

  fs::path root_;
};

TEST(FindStateDir, TakesTheMostWantedPlace) {
  StatePlaces places{.option = "/o", .conclave_state = "/c", .xdg_state_home = "/x", .home = "/h"};
  EXPECT_EQ(find_state_dir(places).value(), "/o");
  places.option.clear();
  EXPECT_EQ(find_state_dir(places).value(), "/c");
  places.conclave_state.clear();
  EXPECT_EQ(find_state_dir(places).value(), "/x/conclave");
  places.xdg_state_home.clear();
  EXPECT_EQ(find_state_dir(places).value(), "/h/.local/state/conclave");
  places.home.clear();
  EXPECT_EQ(find_state_dir(places).error().code, ErrorCode::kInvalidInput);
}

TEST(FindStateDir, RefusesRelativeHomesAndTakesRelativeOptions) {
  EXPECT_FALSE(find_state_dir({.xdg_state_home = "x"}).has_value());
  EXPECT_FALSE(find_state_dir({.home = "h"}).has_value());
  EXPECT_EQ(find_state_dir({.option = "here"}).value(), fs::current_path() / "here");
}

TEST_F(StateDirTest, MakesPrivateFoldersAndFiles) {
  const fs::path path = root_ / "a" / "b";
  const auto state = StateDir::open(path);
  ASSERT_TRUE(state.has_value()) << state.error().message;
  EXPECT_EQ(mode_of(path), 0700u);
  ASSERT_TRUE(state->write("members", "one").has_value());
  EXPECT_EQ(mode_of(path / "members"), 0600u);
}

TEST_F(StateDirTest, ReadsWhatWasWrittenLast) {
  const auto state = StateDir::open(root_ / "s");
  ASSERT_TRUE(state.has_value());
  EXPECT_FALSE(state->read("x", 10).value().has_value());
  ASSERT_TRUE(state->write("x", "first").has_value());
  ASSERT_TRUE(state->write("x", std::string_view("\0b", 2)).has_value());
  EXPECT_EQ(state->read("x", 2).value(), std::string("\0b", 2));
  EXPECT_EQ(state->read("x", 1).error().code, ErrorCode::kCorrupt);
  EXPECT_FALSE(fs::exists(root_ / "s" / "x.new"));
  ASSERT_TRUE(state->remove("x").has_value());
  ASSERT_TRUE(state->remove("x").has_value());
  EXPECT_FALSE(state->read("x", 10).value().has_value());
}

TEST_F(StateDirTest, OneAgentHasTheFolder) {
  {
    const auto first = StateDir::open(root_ / "s");
    ASSERT_TRUE(first.has_value());
    const auto second = StateDir::open(root_ / "s");
    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().code, ErrorCode::kUnavailable);
    EXPECT_NE(second.error().message.find("another conclave agent"), std::string::npos);
  }
  EXPECT_TRUE(StateDir::open(root_ / "s").has_value());
}

TEST_F(StateDirTest, RefusesFoldersThatOthersMayWrite) {
  fs::create_directory(root_ / "open");
  ASSERT_EQ(chmod((root_ / "open").c_str(), 0777), 0);
  const auto state = StateDir::open(root_ / "open");
  ASSERT_FALSE(state.has_value());
  EXPECT_NE(state.error().message.find("chmod go-w"), std::string::npos);
}

TEST_F(StateDirTest, NamesWhatIsInTheWay) {
  std::ofstream(root_ / "file") << "x";
  EXPECT_NE(StateDir::open(root_ / "file").error().message.find("not a folder"), std::string::npos);
  EXPECT_FALSE(StateDir::open(root_ / "file" / "below").has_value());
  if (geteuid() == 0) return;  // root may write anywhere
  fs::create_directory(root_ / "closed");
  ASSERT_EQ(chmod((root_ / "closed").c_str(), 0500), 0);
  const auto state = StateDir::open(root_ / "closed" / "s");
  ASSERT_FALSE(state.has_value());
  EXPECT_NE(state.error().message.find("--state DIR"), std::string::npos);
}

TEST_F(StateDirTest, AFailedWriteKeepsTheOldBytes) {
  const auto state = StateDir::open(root_ / "s");
  ASSERT_TRUE(state.has_value());
  ASSERT_TRUE(state->write("x", "old").has_value());
  // A limit on file sizes fails a write as a full disk does: after a part of it.
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto written = state->write("x", std::string(8192, 'n'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(written.has_value());
  EXPECT_EQ(state->read("x", 100).value(), "old");
  EXPECT_FALSE(fs::exists(root_ / "s" / "x.new"));
}

}  // namespace
}  // namespace conclave::cluster
