#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace conclave::engine {
namespace {

std::vector<TokenId> tokens(std::size_t n) { return std::vector<TokenId>(n, TokenId{1}); }

// Rows by position and count, as "position+rows".
std::vector<std::pair<std::size_t, std::size_t>> shape(const PlannedStep& planned) {
  std::vector<std::pair<std::size_t, std::size_t>> rows;
  for (const auto& sequence : planned.sequences) {
    rows.emplace_back(sequence.position, sequence.n_rows);
  }
  return rows;
}
using Shape = std::vector<std::pair<std::size_t, std::size_t>>;

void append_all(Scheduler& scheduler, const PlannedStep& planned) {
  for (const RequestId id : planned.head_requests) scheduler.append(id, TokenId{2});
}

// The prompt's chunks are those of the first run; the answer's rows follow in decode form.
TEST(Scheduler, ReplaysAnAnswerAfterItsPrompt) {
  Scheduler scheduler({.rows_max = 64, .chunk_tokens = 16, .pages = 8});
  ASSERT_TRUE(scheduler.add(RequestId{1}, tokens(20), tokens(30), 100));
  Shape all;
  std::vector<bool> decode;
  while (scheduler.prefill_progress(RequestId{1})->first < 50) {
    const PlannedStep& planned = scheduler.plan();
    ASSERT_EQ(planned.sequences.size(), 1u);
    all.push_back(shape(planned)[0]);
    decode.push_back(planned.sequences[0].decode);
    EXPECT_EQ(planned.head_rows.size(), all.back().first == 36 ? 1u : 0u);
  }
  EXPECT_EQ(all, (Shape{{0, 16}, {16, 4}, {20, 16}, {36, 14}}));
  EXPECT_EQ(decode, (std::vector<bool>{false, false, true, true}));
}

TEST(Scheduler, CutsThePromptAtMultiplesOfTheChunk) {
  Scheduler scheduler({.rows_max = 64, .chunk_tokens = 16, .pages = 8});
  ASSERT_TRUE(scheduler.add(RequestId{1}, tokens(40), {}, 100));
  EXPECT_EQ(shape(scheduler.plan()), (Shape{{0, 16}}));
  EXPECT_EQ(scheduler.prefill_progress(RequestId{1}),
            (std::pair<std::size_t, std::size_t>(16, 40)));
  const PlannedStep& second = scheduler.plan();
  EXPECT_EQ(shape(second), (Shape{{16, 16}}));
  EXPECT_TRUE(second.head_rows.empty());
  const PlannedStep& last = scheduler.plan();
  EXPECT_EQ(shape(last), (Shape{{32, 8}}));
  EXPECT_EQ(last.head_rows, std::vector<std::uint32_t>{7});
  EXPECT_EQ(last.prefill_rows, 8u);
  EXPECT_TRUE(scheduler.plan().empty());  // its token is not there yet
  scheduler.append(RequestId{1}, TokenId{9});
  const PlannedStep& decode = scheduler.plan();
  EXPECT_EQ(shape(decode), (Shape{{40, 1}}));
  EXPECT_EQ(decode.tokens, std::vector<TokenId>{TokenId{9}});
  EXPECT_EQ(decode.prefill_rows, 0u);
}

TEST(Scheduler, DecodeRowsComeFirstAndShareTheStepWithOneChunk) {
  Scheduler scheduler({.rows_max = 20, .chunk_tokens = 16, .pages = 8});
  ASSERT_TRUE(scheduler.add(RequestId{1}, tokens(5), {}, 60));
  append_all(scheduler, scheduler.plan());
  ASSERT_TRUE(scheduler.add(RequestId{2}, tokens(40), {}, 60));
  EXPECT_EQ(shape(scheduler.plan()), (Shape{{5, 1}, {0, 16}}));
}

// 16 + 1 rows do not fit: the two take turns, so each waits for one step at most.
TEST(Scheduler, ChunkWithoutRoomGoesFirstInTheNextStep) {
  Scheduler scheduler({.rows_max = 16, .chunk_tokens = 16, .pages = 8});
  ASSERT_TRUE(scheduler.add(RequestId{1}, tokens(5), {}, 60));
  append_all(scheduler, scheduler.plan());
  ASSERT_TRUE(scheduler.add(RequestId{2}, tokens(36), {}, 60));
  Shape seen;
  for (int step = 0; step < 5; ++step) {
    const PlannedStep& planned = scheduler.plan();
    const Shape rows = shape(planned);
    seen.insert(seen.end(), rows.begin(), rows.end());
    append_all(scheduler, planned);
  }
  EXPECT_EQ(seen, (Shape{{5, 1}, {0, 16}, {6, 1}, {16, 16}, {7, 1}, {32, 4}}));
}

TEST(Scheduler, LongPromptsTakeTurnsAndShortOnesFillTheGap) {
  Scheduler scheduler({.rows_max = 64, .chunk_tokens = 16, .pages = 64});
  ASSERT_TRUE(scheduler.add(RequestId{1}, tokens(100), {}, 120));
  ASSERT_TRUE(scheduler.add(RequestId{2}, tokens(24), {}, 60));
  ASSERT_TRUE(scheduler.add(RequestId{3}, tokens(7), {}, 60));
  EXPECT_EQ(shape(scheduler.plan()), (Shape{{0, 16}}));          // 1
  EXPECT_EQ(shape(scheduler.plan()), (Shape{{0, 16}}));          // 2
  EXPECT_EQ(shape(scheduler.plan()), (Shape{{0, 7}, {16, 8}}));  // 3, then the rest of 2
  EXPECT_EQ(shape(scheduler.plan()), (Shape{{16, 16}}));         // 1
}

TEST(Scheduler, ChunkIsLoweredToTheRowsOfAStep) {
  Scheduler scheduler({.rows_max = 10, .chunk_tokens = 512, .pages = 8});
  ASSERT_TRUE(scheduler.add(RequestId{1}, tokens(25), {}, 60));
  EXPECT_EQ(shape(scheduler.plan()), (Shape{{0, 10}}));
  EXPECT_EQ(shape(scheduler.plan()), (Shape{{10, 10}}));
  EXPECT_EQ(shape(scheduler.plan()), (Shape{{20, 5}}));
}

TEST(Scheduler, MoreAnswersThanRowsTakeTurns) {
  Scheduler scheduler({.rows_max = 3, .chunk_tokens = 3, .pages = 8});
  for (std::uint64_t id = 0; id < 5; ++id) {
    ASSERT_TRUE(scheduler.add(RequestId{id}, tokens(1), {}, 60));
  }
  std::map<RequestId, int> rows;
  for (int step = 0; step < 20; ++step) {
    const PlannedStep& planned = scheduler.plan();
    for (const RequestId id : planned.head_requests) ++rows[id];
    append_all(scheduler, planned);
  }
  ASSERT_EQ(rows.size(), 5u);
  for (const auto& [id, count] : rows) EXPECT_NEAR(count, 12, 1) << id.value;
}

TEST(Scheduler, StartsInOrderAndOnlyWithAllPages) {
  Scheduler scheduler({.rows_max = 64, .chunk_tokens = 64, .pages = 4});
  ASSERT_TRUE(scheduler.add(RequestId{1}, tokens(3), {}, 3 * 64));
  ASSERT_TRUE(scheduler.add(RequestId{2}, tokens(3), {}, 2 * 64));  // does not fit beside 1
  ASSERT_TRUE(scheduler.add(RequestId{3}, tokens(3), {}, 64));      // would, but came later
  EXPECT_EQ(scheduler.plan().head_requests, std::vector<RequestId>{RequestId{1}});
  EXPECT_EQ(scheduler.running(), 1u);
  EXPECT_EQ(scheduler.waiting(), 2u);
  EXPECT_EQ(scheduler.pages().used(), 3u);
  EXPECT_TRUE(scheduler.remove(RequestId{1}));
  EXPECT_EQ(scheduler.pages().used(), 0u);
  EXPECT_EQ(scheduler.plan().head_requests, (std::vector<RequestId>{RequestId{2}, RequestId{3}}));
}

TEST(Scheduler, PagesOfRunningRequestsAreDisjoint) {
  Scheduler scheduler({.rows_max = 512, .chunk_tokens = 512, .pages = 10});
  for (std::uint64_t id = 0; id < 3; ++id) {
    ASSERT_TRUE(scheduler.add(RequestId{id}, tokens(130), {}, 190));
  }
  std::set<backend::PageIndex> pages;
  for (const auto& rows : scheduler.plan().sequences) {
    EXPECT_EQ(rows.pages.size(), 3u);
    pages.insert(rows.pages.begin(), rows.pages.end());
  }
  EXPECT_EQ(pages.size(), 9u);
}

TEST(Scheduler, Refusals) {
  Scheduler scheduler({.rows_max = 8, .chunk_tokens = 8, .pages = 2, .requests_max = 2});
  EXPECT_EQ(scheduler.add(RequestId{1}, tokens(1), {}, 129).error().code, ErrorCode::kExhausted);
  ASSERT_TRUE(scheduler.add(RequestId{1}, tokens(1), {}, 128));
  EXPECT_EQ(scheduler.add(RequestId{1}, tokens(1), {}, 1).error().code, ErrorCode::kInvalidInput);
  ASSERT_TRUE(scheduler.add(RequestId{2}, tokens(1), {}, 1));
  EXPECT_EQ(scheduler.add(RequestId{3}, tokens(1), {}, 1).error().code, ErrorCode::kExhausted);
  EXPECT_FALSE(scheduler.remove(RequestId{9}));
  EXPECT_FALSE(scheduler.prefill_progress(RequestId{9}));
}

TEST(Scheduler, RemovedRequestsPlanNoRows) {
  Scheduler scheduler({.rows_max = 8, .chunk_tokens = 8, .pages = 8});
  ASSERT_TRUE(scheduler.add(RequestId{1}, tokens(20), {}, 60));  // reading its prompt
  scheduler.plan();
  ASSERT_TRUE(scheduler.add(RequestId{2}, tokens(20), {}, 60));  // waiting
  EXPECT_TRUE(scheduler.remove(RequestId{1}));
  EXPECT_TRUE(scheduler.remove(RequestId{2}));
  EXPECT_TRUE(scheduler.plan().empty());
  EXPECT_EQ(scheduler.pages().used(), 0u);
  EXPECT_EQ(scheduler.running() + scheduler.waiting(), 0u);
}

}  // namespace
}  // namespace conclave::engine
