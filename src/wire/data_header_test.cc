#include "wire/data_header.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/rng.h"

namespace conclave::wire {
namespace {

using Bytes = std::array<std::byte, kDataHeaderSize>;

constexpr DataHeader kExample{.kind = DataKind::kRepair,
                              .phase = Phase::kFeedForward,
                              .layer = 0x1234,
                              .epoch = 0x89abcdef,
                              .step = 0x01020304,
                              .sequence = 0xfedcba98,
                              .size = 0x00fedcba};

std::uint64_t word(const Bytes& bytes, std::size_t at, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = size; i > 0; --i) {
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[at + i - 1]);
  }
  return value;
}

// As the header file defines it, written a second time.
void seal(Bytes& bytes) {
  std::uint64_t sum = 0;
  for (const std::size_t at : {0u, 8u, 16u}) sum = hash_combine(sum, word(bytes, at, 8));
  sum = hash_combine(sum, word(bytes, 24, 4));
  for (std::size_t i = 0; i < 4; ++i) bytes[28 + i] = static_cast<std::byte>(sum >> (8 * i));
}

// The message of decoding the example with one byte changed and the checksum put right.
std::string error_with(std::size_t at, std::uint8_t value) {
  Bytes bytes = encode(kExample);
  bytes[at] = std::byte{value};
  seal(bytes);
  const auto decoded = decode_data_header(bytes);
  if (decoded) return "";
  EXPECT_EQ(decoded.error().code, ErrorCode::kCorrupt);
  return decoded.error().message;
}

TEST(DataHeader, ItsBytesAreThoseOfTheTable) {
  Bytes bytes = encode(kExample);
  EXPECT_EQ(word(bytes, 0, 4), kDataMagic);
  EXPECT_EQ(word(bytes, 4, 1), kDataVersion);
  EXPECT_EQ(word(bytes, 5, 1), 4u);
  EXPECT_EQ(word(bytes, 6, 2), 0x1234u);
  EXPECT_EQ(word(bytes, 8, 4), 0x89abcdefu);
  EXPECT_EQ(word(bytes, 12, 4), 0x01020304u);
  EXPECT_EQ(word(bytes, 16, 4), 0xfedcba98u);
  EXPECT_EQ(word(bytes, 20, 4), 0x00fedcbau);
  EXPECT_EQ(word(bytes, 24, 4), 2u);
  const Bytes encoded = bytes;
  seal(bytes);
  EXPECT_EQ(bytes, encoded);
}

TEST(DataHeader, ComesBackAsItWas) {
  for (const DataHeader& header : {kExample, DataHeader{}}) {
    const auto decoded = decode_data_header(encode(header));
    ASSERT_TRUE(decoded);
    EXPECT_EQ(decoded.value(), header);
  }
}

TEST(DataHeader, EveryFlippedBitIsNoticed) {
  for (std::size_t bit = 0; bit < 8 * kDataHeaderSize; ++bit) {
    Bytes bytes = encode(kExample);
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    EXPECT_FALSE(decode_data_header(bytes)) << "bit " << bit;
  }
}

TEST(DataHeader, ErrorsNameTheField) {
  EXPECT_NE(error_with(0, 0).find("magic"), std::string::npos);
  EXPECT_NE(error_with(4, kDataVersion + 1).find("version 2"), std::string::npos);
  EXPECT_NE(error_with(5, kDataKindLast + 1).find("kind 7"), std::string::npos);
  EXPECT_NE(error_with(24, kPhaseLast + 1).find("phase 3"), std::string::npos);
  EXPECT_NE(error_with(27, 1).find("reserved"), std::string::npos);
  EXPECT_NE(error_with(23, 0x11).find("size"), std::string::npos);
  Bytes bytes = encode(kExample);
  bytes[31] ^= std::byte{1};
  EXPECT_NE(decode_data_header(bytes).error().message.find("checksum"), std::string::npos);
}

TEST(DataHeader, TheLargestSizeIsTaken) {
  DataHeader header = kExample;
  header.size = kDataSizeMax;
  EXPECT_TRUE(decode_data_header(encode(header)));
  header.size = kDataSizeMax + 1;
  EXPECT_FALSE(decode_data_header(encode(header)));
}

}  // namespace
}  // namespace conclave::wire
