#include "apps/pool_flags.h"

#include <gtest/gtest.h>

namespace conclave::apps {
namespace {

TEST(PoolFlags, MemoryIsReadInPowersOfTen) {
  EXPECT_EQ(parse_memory("24GB", "--memory").value(), 24'000'000'000u);
  EXPECT_EQ(parse_memory("900 mb", "--memory").value(), 900'000'000u);
  EXPECT_EQ(parse_memory("1.5TB", "--memory").value(), 1'500'000'000'000u);
}

TEST(PoolFlags, OtherTextIsAnErrorThatNamesTheFlag) {
  for (const char* text : {"", "24", "GB", "-1GB", "0GB", "24KB", "24GBs", "1e300GB", "nanGB"}) {
    const auto bytes = parse_memory(text, "--memory");
    ASSERT_FALSE(bytes) << text;
    EXPECT_NE(bytes.error().message.find("--memory"), std::string::npos);
  }
}

TEST(PoolFlags, TheHostHasANameAndAnId) {
  EXPECT_FALSE(host_name().empty());
  EXPECT_EQ(host_id(), host_id());
}

}  // namespace
}  // namespace conclave::apps
