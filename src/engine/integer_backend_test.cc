#include "engine/integer_backend.h"

#include <gtest/gtest.h>

#include <array>

#include "engine/step.h"

namespace conclave::engine {
namespace {

const std::vector<TokenId> kTokens{TokenId{5}, TokenId{6}, TokenId{7}};
const std::array<backend::PageIndex, 2> kPages{3, 1};
const std::vector<std::uint32_t> kLastRow{2};

// Logits of three tokens from `position` on.
std::vector<float> logits_at(IntegerBackend& backend, std::size_t position) {
  const backend::SequenceRows rows{
      .first_row = 0,
      .n_rows = 3,
      .position = position,
      .pages = std::span(kPages).first(position + 3 > backend::kPageTokens ? 2 : 1)};
  Ranks alone;
  const auto logits =
      run_step(backend, alone, {.tokens = kTokens, .sequences = {&rows, 1}, .head_rows = kLastRow});
  EXPECT_TRUE(logits);
  return {logits->begin(), logits->end()};
}

TEST(IntegerBackend, SlicesDifferAndAddUpToTheWhole) {
  const IntegerOptions options;
  IntegerBackend whole(options);
  const std::array<std::size_t, 3> shares{1, 0, 2};
  IntegerBackend sliced(options, divide_integer_model(whole.config(), shares));
  const backend::SequenceRows rows{
      .first_row = 0, .n_rows = 3, .position = 0, .pages = std::span(kPages).first(1)};
  const backend::Step step{kTokens, {&rows, 1}, kLastRow};
  whole.embed(step);
  sliced.embed(step);
  const auto expect_equal_sums = [&] {
    bool differs = false;
    for (std::size_t i = 0; i < whole.hidden().size(); ++i) {
      const float first = sliced.partial(0)[i];
      const float last = sliced.partial(2)[i];
      EXPECT_EQ(sliced.partial(1)[i], 0.0f);
      EXPECT_EQ(first + last, whole.partial(0)[i]);
      differs = differs || first != last;
      whole.hidden()[i] += whole.partial(0)[i];
      sliced.hidden()[i] += first + last;
    }
    EXPECT_TRUE(differs);
  };
  for (std::uint16_t layer = 0; layer < whole.config().n_layers; ++layer) {
    whole.attention(LayerId{layer});
    sliced.attention(LayerId{layer});
    expect_equal_sums();
    if (whole.config().is_moe(LayerId{layer})) {
      whole.route(LayerId{layer}, {});
      sliced.route(LayerId{layer}, {});
    }
    whole.feed_forward(LayerId{layer});
    sliced.feed_forward(LayerId{layer});
    expect_equal_sums();
  }
  whole.head();
  sliced.head();
  std::vector<float> joined(sliced.logits(0).begin(), sliced.logits(0).end());
  joined.insert(joined.end(), sliced.logits(2).begin(), sliced.logits(2).end());
  EXPECT_TRUE(std::ranges::equal(joined, whole.logits(0)));
  EXPECT_EQ(joined.size(), kIntegerVocab);
}

TEST(IntegerBackend, EveryKvRowCountsAndOutlivesTheBackend) {
  IntegerOptions options;
  std::vector<std::uint64_t> kv(integer_kv_size(options));
  options.kv = kv;
  IntegerBackend first(options);
  for (std::size_t position = 0; position < 63; position += 3) logits_at(first, position);
  const std::vector<std::uint64_t> written = kv;
  const std::vector<float> expected = logits_at(first, 63);

  kv = written;
  IntegerBackend second(options);
  EXPECT_EQ(logits_at(second, 63), expected);
  EXPECT_EQ(logits_at(second, 63), expected);  // a repeated step
  const std::size_t layer_size = options.limits.pages * backend::kPageTokens;
  for (std::size_t layer = 0; layer < options.n_layers; ++layer) {
    for (const std::size_t position : {0u, 31u, 62u}) {
      kv = written;
      kv[layer * layer_size + kPages[0] * backend::kPageTokens + position] = 0;
      EXPECT_NE(logits_at(second, 63), expected) << layer << " " << position;
    }
  }
}

TEST(IntegerBackend, MisroutingChangesTheAnswerUnlessSetRight) {
  IntegerBackend right({});
  IntegerBackend wrong({});
  wrong.misroutes = [](LayerId layer) { return layer.value == 1; };
  EXPECT_NE(logits_at(right, 0), logits_at(wrong, 0));
}

}  // namespace
}  // namespace conclave::engine
