#include "apps/options.h"

#include <gtest/gtest.h>

namespace conclave::apps {
namespace {

Settings empty_settings() {
  return Settings::parse("", "none", [](const std::string&) { return std::nullopt; });
}

TEST(ParseCounts, TakesNumbersJoinedByCommas) {
  EXPECT_EQ(*parse_counts("64,512", "--prefill"), (std::vector<std::size_t>{64, 512}));
  EXPECT_EQ(*parse_counts("1", "--prefill"), (std::vector<std::size_t>{1}));
}

TEST(ParseCounts, RefusesEverythingElse) {
  for (const char* text : {"", ",", "64,", "0", "-1", "64;512", "6 4", "9999999"}) {
    const auto counts = parse_counts(text, "--prefill");
    ASSERT_FALSE(counts) << text;
    EXPECT_NE(counts.error().message.find("--prefill"), std::string::npos);
  }
}

TEST(ModelOptions, CommandLineFillsAll) {
  CLI::App app;
  Settings settings = empty_settings();
  ModelOptions options;
  add_model_options(app, settings, ModelArgument::kOptional, options);
  app.parse("folder --weights int8 --threads 2 --isa avx2 --exact --context 100");
  EXPECT_EQ(options.model, "folder");
  EXPECT_EQ(options.weights, "int8");
  EXPECT_EQ(options.threads, 2u);
  EXPECT_EQ(options.isa, "avx2");
  EXPECT_TRUE(options.exact);
  EXPECT_EQ(options.context, 100u);
}

TEST(ModelOptions, RefusesWrongValues) {
  for (const char* line :
       {"--weights int3", "--threads -1", "--threads x", "--context -5", "--isa avx9"}) {
    CLI::App app;
    Settings settings = empty_settings();
    ModelOptions options;
    add_model_options(app, settings, ModelArgument::kOptional, options);
    EXPECT_THROW(app.parse(line), CLI::ParseError) << line;
  }
}

TEST(Checks, RefuseWhatCli11WouldTake) {
  EXPECT_EQ(not_negative("0"), "");
  EXPECT_EQ(not_negative("18446744073709551615"), "");
  EXPECT_NE(not_negative("-1"), "");
  EXPECT_NE(not_negative(" -1"), "");
  EXPECT_EQ(not_empty(" "), "");
  EXPECT_NE(not_empty(""), "");
  EXPECT_EQ(not_blank(" x"), "");
  EXPECT_NE(not_blank(" \n"), "");
}

TEST(FindModel, TakesTheNamedFolderAsItIs) {
  ModelOptions options;
  options.model = "some/where";
  EXPECT_EQ(*find_model(options, "/opt/bin/conclave"), "some/where");
}

}  // namespace
}  // namespace conclave::apps
