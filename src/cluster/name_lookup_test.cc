#include "cluster/name_lookup.h"

#include <gtest/gtest.h>
#include <poll.h>

namespace conclave::cluster {
namespace {

std::vector<NameLookup::Found> wait_for(NameLookup& lookup) {
  pollfd item{.fd = lookup.fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&item, 1, 20'000), 1);
  return lookup.take();
}

TEST(NameLookup, FindsTheMachineItself) {
  auto lookup = NameLookup::create();
  ASSERT_TRUE(lookup.has_value());
  EXPECT_TRUE(lookup->take().empty());
  ASSERT_TRUE(lookup->start(7, "localhost", 7400).has_value());
  const auto found = wait_for(*lookup);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].id, 7u);
  ASSERT_TRUE(found[0].addresses.has_value()) << found[0].addresses.error().message;
  EXPECT_FALSE(found[0].addresses->empty());
}

TEST(NameLookup, SaysThatThereIsNoSuchHost) {
  auto lookup = NameLookup::create();
  ASSERT_TRUE(lookup.has_value());
  ASSERT_TRUE(lookup->start(8, "a host with spaces", 7400).has_value());
  const auto found = wait_for(*lookup);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_FALSE(found[0].addresses.has_value());
}

TEST(NameLookup, ThreadsOutliveTheObject) {
  for (int i = 0; i < 50; ++i) {
    auto lookup = NameLookup::create();
    ASSERT_TRUE(lookup.has_value());
    ASSERT_TRUE(lookup->start(1, "localhost", 7400).has_value());
  }
}

TEST(NumericHost, IsAnIpAddress) {
  EXPECT_TRUE(is_numeric_host("10.0.0.1"));
  EXPECT_TRUE(is_numeric_host("fd00::1"));
  EXPECT_FALSE(is_numeric_host("localhost"));
  EXPECT_FALSE(is_numeric_host("10.0.0"));
}

}  // namespace
}  // namespace conclave::cluster
