#include "cluster/head_search.h"

#include <gtest/gtest.h>

namespace conclave::cluster {
namespace {

HeadPin pin(unsigned first) {
  HeadPin pin{};
  pin[0] = std::byte{static_cast<unsigned char>(first)};
  return pin;
}

FoundService service(const std::string& name, const std::string& host, const HeadPin& head) {
  return {.name = name, .address = {host, 7333}, .txt = head_record(head)};
}

TEST(HeadSearch, KeepsTheAddressesOfItsHeadAlone) {
  HeadSearch search(pin(0xab));
  EXPECT_EQ(head_record(pin(0xab)).at("head"), "ab000000000000000000000000000000");
  search.on_found(service("studio", "studio.local", pin(0xab)));
  search.on_found(service("other", "other.local", pin(0xac)));
  search.on_found({.name = "printer", .address = {"printer.local", 1}, .txt = {}});
  search.on_found(service("studio", "10.0.0.2", pin(0xab)));
  EXPECT_EQ(search.addresses(),
            (std::vector<HostPort>{{"10.0.0.2", 7333}, {"studio.local", 7333}}));
  search.on_found({.name = "studio", .gone = true});
  EXPECT_TRUE(search.addresses().empty());
}

TEST(HeadSearch, RemembersSoManyAndNoMore) {
  HeadSearch search(pin(1));
  for (int i = 0; i < 20; ++i) {
    search.on_found(service("studio", "10.0.0." + std::to_string(i), pin(1)));
    search.on_found(service("studio", "10.0.0." + std::to_string(i), pin(1)));  // said again
  }
  ASSERT_EQ(search.addresses().size(), HeadSearch::kFoundMax);
  EXPECT_EQ(search.addresses().front().host, "10.0.0.19");
}

}  // namespace
}  // namespace conclave::cluster
