#include "apps/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace conclave::apps {
namespace {

Environment environment_of(const std::map<std::string, std::string>& variables) {
  return [variables](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
}

// Parses a command line with one int flag bound to `threads` and gives its value.
int threads_of(Settings& settings, const std::string& command_line) {
  CLI::App app;
  int threads = 7;
  settings.bind(app.add_option("--threads", threads)->check(CLI::Range(0, 64)), "threads");
  app.parse(command_line);
  return threads;
}

TEST(EnvironmentName, IsUpperCaseWithUnderscores) {
  EXPECT_EQ(environment_name("threads"), "CONCLAVE_THREADS");
  EXPECT_EQ(environment_name("run.max_tokens"), "CONCLAVE_RUN_MAX_TOKENS");
}

TEST(Settings, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  const auto variables = environment_of({{"CONCLAVE_THREADS", "3"}});
  const auto none = environment_of({});
  Settings nothing = Settings::parse("", "config.toml", none);
  EXPECT_EQ(threads_of(nothing, ""), 7);
  Settings file = Settings::parse("threads = 2", "config.toml", none);
  EXPECT_EQ(threads_of(file, ""), 2);
  Settings both = Settings::parse("threads = 2", "config.toml", variables);
  EXPECT_EQ(threads_of(both, ""), 3);
  EXPECT_EQ(threads_of(both, "--threads 4"), 4);
  EXPECT_TRUE(both.check());
}

TEST(Settings, EmptyVariableIsNotSet) {
  Settings settings =
      Settings::parse("threads = 2", "config.toml", environment_of({{"CONCLAVE_THREADS", ""}}));
  EXPECT_EQ(threads_of(settings, ""), 2);
}

TEST(Settings, FillsFlagsOptionalsAndTables) {
  Settings settings =
      Settings::parse("exact = true\n[run]\ntemperature = 0.25", "config.toml", environment_of({}));
  CLI::App app;
  bool exact = false;
  std::optional<float> temperature;
  settings.bind(app.add_flag("--exact", exact), "exact");
  settings.bind(app.add_option("--temperature", temperature), "run.temperature");
  app.parse("");
  EXPECT_TRUE(exact);
  ASSERT_TRUE(temperature.has_value());
  EXPECT_FLOAT_EQ(*temperature, 0.25f);
  EXPECT_TRUE(settings.check());
}

TEST(Settings, UnknownKeyNamesKeyAndFile) {
  Settings settings = Settings::parse("thread = 2", "my.toml", environment_of({}));
  threads_of(settings, "");
  const Result<void> checked = settings.check();
  ASSERT_FALSE(checked);
  EXPECT_NE(checked.error().message.find("my.toml"), std::string::npos);
  EXPECT_NE(checked.error().message.find("\"thread\""), std::string::npos);
}

TEST(Settings, RefusedValueNamesItsSource) {
  Settings file = Settings::parse("threads = \"many\"", "my.toml", environment_of({}));
  EXPECT_EQ(threads_of(file, ""), 7);
  ASSERT_FALSE(file.check());
  EXPECT_NE(file.check().error().message.find("my.toml: threads"), std::string::npos);

  Settings variable = Settings::parse("", "my.toml", environment_of({{"CONCLAVE_THREADS", "99"}}));
  EXPECT_EQ(threads_of(variable, ""), 7);
  ASSERT_FALSE(variable.check());
  EXPECT_NE(variable.check().error().message.find("CONCLAVE_THREADS"), std::string::npos);
}

TEST(Settings, BrokenFileNamesTheLine) {
  const Settings settings = Settings::parse("a = 1\nb = = 2", "my.toml", environment_of({}));
  ASSERT_FALSE(settings.check());
  EXPECT_NE(settings.check().error().message.find("my.toml: line 2"), std::string::npos);
}

TEST(Settings, ArraysAreRefused) {
  const Settings settings = Settings::parse("threads = [1, 2]", "my.toml", environment_of({}));
  ASSERT_FALSE(settings.check());
  EXPECT_NE(settings.check().error().message.find("threads"), std::string::npos);
}

TEST(Settings, NamedFileMustExistAndTheUsualOneNeedNot) {
  EXPECT_TRUE(Settings::load(environment_of({{"HOME", "/nowhere"}})).check());
  EXPECT_FALSE(Settings::load(environment_of({{"CONCLAVE_CONFIG", "/nowhere.toml"}})).check());
}

TEST(Settings, LooksInXdgBeforeHome) {
  const std::filesystem::path base = std::filesystem::path(testing::TempDir()) / "config_test";
  std::filesystem::create_directories(base / "xdg/conclave");
  std::filesystem::create_directories(base / "home/.config/conclave");
  std::ofstream(base / "xdg/conclave/config.toml") << "threads = 5";
  std::ofstream(base / "home/.config/conclave/config.toml") << "threads = 6";
  const std::string xdg = (base / "xdg").string();
  const std::string home = (base / "home").string();
  Settings first = Settings::load(environment_of({{"XDG_CONFIG_HOME", xdg}, {"HOME", home}}));
  EXPECT_EQ(threads_of(first, ""), 5);
  Settings second = Settings::load(environment_of({{"HOME", home}}));
  EXPECT_EQ(threads_of(second, ""), 6);
  std::filesystem::remove_all(base);
}

}  // namespace
}  // namespace conclave::apps
