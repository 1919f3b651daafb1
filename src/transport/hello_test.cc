#include "transport/hello.h"

#include <gtest/gtest.h>

#include <string>

namespace conclave::transport {
namespace {

using Bytes = std::array<std::byte, kHelloSize>;

Hello example() {
  Hello hello{.cluster = 0x0123456789abcdef,
              .epoch = 7,
              .n_ranks = 3,
              .rank = 2,
              .to = 1,
              .shared_memory = true};
  hello.lane.fill(std::byte{0x5a});
  return hello;
}

GroupSpec group() {
  GroupSpec spec{.cluster = 0x0123456789abcdef, .epoch = 7, .rank = 1, .ranks = {}};
  spec.ranks.resize(3);
  return spec;
}

TEST(Hello, ComesBackAsItWas) {
  const auto decoded = decode_hello(encode(example()));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded.value(), example());
}

TEST(Hello, EveryFlippedBitIsNoticed) {
  for (std::size_t bit = 0; bit < 8 * kHelloSize; ++bit) {
    Bytes bytes = encode(example());
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    EXPECT_FALSE(decode_hello(bytes)) << "bit " << bit;
  }
}

TEST(Hello, RanksAreWithinTheGroup) {
  for (const auto& [n_ranks, rank, to] :
       {std::array<std::uint16_t, 3>{3, 3, 1}, std::array<std::uint16_t, 3>{3, 1, 3},
        std::array<std::uint16_t, 3>{kRanksMax + 1, 1, 0}}) {
    Hello hello = example();
    hello.n_ranks = n_ranks;
    hello.rank = rank;
    hello.to = to;
    EXPECT_FALSE(decode_hello(encode(hello)));
  }
}

TEST(Hello, OfAnotherGroupIsRefusedWithTheReason) {
  EXPECT_TRUE(check_hello(example(), group(), 2));
  const auto reason = [](auto change) {
    Hello hello = example();
    change(hello);
    const auto checked = check_hello(hello, group(), 2);
    return checked ? std::string("taken") : checked.error().message;
  };
  EXPECT_EQ(reason([](Hello& hello) { hello.cluster = 1; }),
            "it is of cluster 1, not 81985529216486895");
  EXPECT_EQ(reason([](Hello& hello) { hello.epoch = 6; }), "it is of epoch 6, not 7");
  EXPECT_EQ(reason([](Hello& hello) { hello.n_ranks = 4; }), "it is of a group of 4, not 3");
  EXPECT_EQ(reason([](Hello& hello) { hello.rank = 0; }), "it is of rank 0, not 2");
  EXPECT_EQ(reason([](Hello& hello) { hello.to = 0; }), "it wants rank 0, this is rank 1");
}

TEST(Hello, ALinkIsClearWhereBothEndsAreMarked) {
  GroupSpec spec = group();
  spec.ranks[1].clear = true;
  spec.ranks[2].clear = true;
  EXPECT_FALSE(link_is_clear(spec, 0));
  EXPECT_TRUE(link_is_clear(spec, 2));
  spec.ranks[1].clear = false;
  EXPECT_FALSE(link_is_clear(spec, 2));
}

}  // namespace
}  // namespace conclave::transport
