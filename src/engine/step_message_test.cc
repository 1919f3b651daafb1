#include "engine/step_message.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace conclave::engine {
namespace {

constexpr StepMessageLimits kLimits{.rows_max = 8, .pages = 10, .positions = 200, .vocab_size = 64};

std::vector<std::byte> bytes_of(const std::vector<std::uint32_t>& words) {
  const auto bytes = std::as_bytes(std::span(words));
  return {bytes.begin(), bytes.end()};
}

// Two sequences: 3 rows at 62, which take 2 pages, and a decode row at 10.
std::vector<std::uint32_t> good() {
  return {1, 4, 2, 2, 5, 6, 7, 63, 3, 62, 0, 9, 2, 1, 10, 1, 4, 2, 3};
}

TEST(StepMessage, SurvivesTheJourney) {
  const auto decoded = decode_step(bytes_of(good()), kLimits);
  ASSERT_TRUE(decoded) << decoded.error().message;
  const backend::Step step = decoded->step();
  EXPECT_EQ(step.tokens.size(), 4u);
  EXPECT_EQ(step.tokens[3].value, 63u);
  ASSERT_EQ(step.sequences.size(), 2u);
  EXPECT_EQ(step.sequences[0].n_rows, 3u);
  EXPECT_EQ(step.sequences[0].position, 62u);
  EXPECT_FALSE(step.sequences[0].decode);
  EXPECT_TRUE(std::ranges::equal(step.sequences[0].pages, std::array{9u, 2u}));
  EXPECT_EQ(step.sequences[1].first_row, 3u);
  EXPECT_EQ(step.sequences[1].position, 10u);
  EXPECT_TRUE(step.sequences[1].decode);
  EXPECT_TRUE(std::ranges::equal(step.sequences[1].pages, std::array{4u}));
  EXPECT_TRUE(std::ranges::equal(step.head_rows, std::array{2u, 3u}));

  std::vector<std::byte> again{std::byte{1}};
  encode_step(step, again);
  EXPECT_EQ(again, bytes_of(good()));
}

TEST(StepMessage, EveryFieldIsCheckedAgainstTheLimits) {
  const auto error_of = [](std::size_t at, std::uint32_t value) {
    auto words = good();
    words[at] = value;
    const auto decoded = decode_step(bytes_of(words), kLimits);
    EXPECT_TRUE(decoded || decoded.error().code == ErrorCode::kCorrupt);
    return decoded ? std::string() : decoded.error().message;
  };
  EXPECT_EQ(error_of(4, 6), "");
  EXPECT_EQ(error_of(0, 2), "step description: version is 2; expected 1");
  EXPECT_EQ(error_of(1, 0), "step description: rows is 0; expected 1 to 8");
  EXPECT_EQ(error_of(1, 9), "step description: rows is 9; expected 1 to 8");
  EXPECT_EQ(error_of(2, 5), "step description: sequences is 5; expected at most one a row");
  EXPECT_EQ(error_of(2, 1), "step description: rows of all sequences is 3; expected 4");
  EXPECT_EQ(error_of(3, 5), "step description: head rows is 5; expected at most one a row");
  EXPECT_EQ(error_of(3, 3),
            "step description: a head row is 0; expected 4 to 3");  // beyond the message's end
  EXPECT_EQ(error_of(3, 1), "step description: size is 76; expected fewer bytes");
  EXPECT_EQ(error_of(7, 64), "step description: a token is 64; expected less than 64");
  EXPECT_EQ(error_of(8, 0), "step description: rows of a sequence is 0; expected 1 to 4");
  EXPECT_EQ(error_of(8, 5), "step description: rows of a sequence is 5; expected 1 to 4");
  EXPECT_EQ(error_of(9, 198), "step description: end of a sequence is 201; expected at most 200");
  EXPECT_EQ(error_of(9, 0xffffffff),
            "step description: end of a sequence is 4294967298; expected at most 200");
  EXPECT_EQ(error_of(10, 2), "step description: flags of a sequence is 2; expected 0 or 1");
  EXPECT_EQ(error_of(12, 10), "step description: a page is 10; expected less than 10");
  EXPECT_EQ(error_of(17, 4), "step description: a head row is 4; expected 0 to 3");
  EXPECT_EQ(error_of(18, 2), "step description: a head row is 2; expected 3 to 3");
}

TEST(StepMessage, TruncatedAndPaddedOnesAreErrors) {
  const auto whole = bytes_of(good());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(decode_step(std::span(whole).first(size), kLimits)) << size;
  }
  auto padded = whole;
  padded.push_back(std::byte{0});
  EXPECT_FALSE(decode_step(padded, kLimits));
}

// More pages than the pool has would read far before any page is found wrong.
TEST(StepMessage, LongSequenceInASmallPoolIsAnError) {
  StepMessageLimits limits = kLimits;
  limits.positions = 1000;
  auto words = good();
  words[9] = 900;
  EXPECT_EQ(decode_step(bytes_of(words), limits).error().message,
            "step description: pages of a sequence is 15; expected at most 10");
}

}  // namespace
}  // namespace conclave::engine
