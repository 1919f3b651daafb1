#include <gtest/gtest.h>

#include "engine/engine.h"
#include "engine/fake_backend.h"

namespace conclave::engine {
namespace {

std::vector<TokenId> text_of(std::size_t n) {
  std::vector<TokenId> ids;
  for (std::size_t i = 0; i < n; ++i) ids.push_back(TokenId{static_cast<std::uint32_t>(i % 50)});
  return ids;
}

struct Row {
  std::vector<float> logits;
  std::vector<ExpertId> experts;
  bool operator==(const Row&) const = default;
};

std::vector<Row> rows_of(const std::vector<TokenId>& ids, const EvaluateOptions& options) {
  FakeBackend backend({.limits = {.rows_max = 40, .pages = 4}});
  std::vector<Row> rows;
  const auto result = evaluate(backend, ids, options, [&](const EvaluatedRow& row) {
    EXPECT_EQ(row.position, rows.size());
    rows.push_back(
        {{row.logits.begin(), row.logits.end()}, {row.experts.begin(), row.experts.end()}});
  });
  EXPECT_TRUE(result);
  return rows;
}

TEST(Evaluate, GivesEveryPositionWhateverTheChunk) {
  const auto ids = text_of(100);
  const auto by_one = rows_of(ids, {.chunk_tokens = 1});
  ASSERT_EQ(by_one.size(), 100u);
  EXPECT_EQ(by_one[3].logits.size(), FakeBackend::kVocab);
  EXPECT_EQ(by_one[3].experts.size(), 2u * FakeBackend::kExpertsPerToken);
  EXPECT_NE(by_one[3], by_one[53]);  // the same token with another history
  EXPECT_EQ(by_one, rows_of(ids, {.chunk_tokens = 33}));
  EXPECT_EQ(by_one, rows_of(ids, {.chunk_tokens = 512}));  // lowered to the 40 rows of a step
}

TEST(Evaluate, ForcedExpertsReachTheirLayerAndPosition) {
  const auto ids = text_of(70);
  const auto free = rows_of(ids, {.chunk_tokens = 16});
  std::vector<ExpertId> same;
  std::vector<ExpertId> other;
  for (std::uint16_t position = 0; position < 70; ++position) {
    const auto& chosen = free[position].experts;
    same.insert(same.end(), chosen.begin(), chosen.end());
    const auto first = static_cast<std::uint16_t>(position % 7);
    // Layer 0 in descending order: the order does not matter.
    for (const int id : {7, int{first}, int{first}, first + 1}) {
      other.push_back(ExpertId{static_cast<std::uint16_t>(id)});
    }
  }
  EXPECT_EQ(rows_of(ids, {.chunk_tokens = 16, .forced_experts = same}), free);
  const auto forced = rows_of(ids, {.chunk_tokens = 16, .forced_experts = other});
  for (std::uint16_t position = 0; position < 70; ++position) {
    const auto first = static_cast<std::uint16_t>(position % 7);
    EXPECT_EQ(forced[position].experts,
              (std::vector<ExpertId>{ExpertId{first}, ExpertId{7}, ExpertId{first},
                                     ExpertId{static_cast<std::uint16_t>(first + 1)}}));
  }
  EXPECT_EQ(forced, rows_of(ids, {.chunk_tokens = 5, .forced_experts = other}));
}

TEST(Evaluate, RefusesWhatDoesNotFit) {
  FakeBackend backend({.limits = {.rows_max = 40, .pages = 2}, .max_positions = 200});
  const auto code = [&](const std::vector<TokenId>& ids, const EvaluateOptions& options) {
    const auto result = evaluate(backend, ids, options, [](const EvaluatedRow&) { FAIL(); });
    return result ? std::optional<ErrorCode>() : result.error().code;
  };
  EXPECT_EQ(code(text_of(129), {}), ErrorCode::kExhausted);
  EXPECT_EQ(code(text_of(201), {}), ErrorCode::kInvalidInput);
  EXPECT_EQ(code({TokenId{FakeBackend::kVocab}}, {}), ErrorCode::kInvalidInput);
  EXPECT_EQ(code(text_of(3), {.chunk_tokens = 0}), ErrorCode::kInvalidInput);
  const std::vector<ExpertId> too_few(3);
  EXPECT_EQ(code(text_of(1), {.forced_experts = too_few}), ErrorCode::kInvalidInput);
  const std::vector<ExpertId> twice{ExpertId{1}, ExpertId{2}, ExpertId{3}, ExpertId{3}};
  EXPECT_EQ(code(text_of(1), {.forced_experts = twice}), ErrorCode::kInvalidInput);
  const std::vector<ExpertId> unknown{ExpertId{1}, ExpertId{2}, ExpertId{3}, ExpertId{8}};
  EXPECT_EQ(code(text_of(1), {.forced_experts = unknown}), ErrorCode::kInvalidInput);
}

}  // namespace
}  // namespace conclave::engine
