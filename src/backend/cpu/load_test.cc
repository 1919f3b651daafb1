// How arenas and the KV memory are filled, kept, shared and continued.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <limits>

#include "backend/cpu/weights.h"
#include "backend/test_model.h"

namespace conclave::backend {
namespace {

// Counts what it reads, and fails at the given part.
class CountingSource final : public PackedSource {
 public:
  explicit CountingSource(std::size_t fail_at = std::numeric_limits<std::size_t>::max())
      : fail_at_(fail_at) {}
  void announce(std::span<const PackedPart> parts) override {
    announced.assign(parts.begin(), parts.end());
  }
  Result<void> read(const PackedPart& part, std::span<std::byte> out) override {
    if (reads.size() == fail_at_) return unavailable("the peer is gone");
    reads.push_back(part);
    return local_.read(part, out);
  }

  std::vector<PackedPart> announced;
  std::vector<PackedPart> reads;

 private:
  std::size_t fail_at_;
  ThreadPool pool_{2};
  LocalPackedSource local_{ember(), pool_};
};

std::size_t reads_of(const model::Slice& slice, const CpuOptions& options, WeightArena& arena) {
  CountingSource from;
  const auto loaded = load_slice(ember(), slice, options, from, arena, {});
  EXPECT_TRUE(loaded) << loaded.error().message;
  return from.reads.size();
}

SharedMemory attached(const SharedMemory& memory) {
  auto second = SharedMemory::attach(::dup(memory.fd()));
  EXPECT_TRUE(second);
  return std::move(*second);
}

TEST(Load, AFilledArenaIsNotFilledAgain) {
  const model::Slice slice = three_slices()[0];
  WeightArena arena = memory_of(cpu_slice_bytes(ember(), whole_slice(), {}));
  const std::size_t n_parts = list_slice_parts(ember(), slice, {}).size();
  EXPECT_EQ(reads_of(slice, {}, arena), n_parts);
  EXPECT_NE(arena.filled_key(), 0u);
  WeightArena second = attached(arena);
  EXPECT_EQ(reads_of(slice, {}, second), 0u);
  // Other contents: loaded again.
  EXPECT_GT(reads_of(slice, {.weights = model::WeightsMode::kInt8}, arena), 0u);
  EXPECT_GT(reads_of(three_slices()[2], {}, arena), 0u);
  EXPECT_GT(reads_of(slice, {}, arena), 0u);
}

TEST(Load, GoesOnWhereALoaderDied) {
  const model::Slice slice = three_slices()[1];
  const WeightArena expected = slice_arena(slice, {});
  const std::vector<PackedPart> parts = list_slice_parts(ember(), slice, {});
  WeightArena arena = memory_of(cpu_slice_bytes(ember(), slice, {}));
  constexpr std::size_t kDone = 100;
  CountingSource dying(kDone);
  const auto failed = load_slice(ember(), slice, {}, dying, arena, {});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().message, "the peer is gone");
  EXPECT_EQ(dying.announced, parts);
  EXPECT_EQ(arena.filled_key(), 0u);

  CountingSource second;
  WeightArena again = attached(arena);
  std::uint64_t first_done = 0;
  ASSERT_TRUE(load_slice(ember(), slice, {}, second, again,
                         [&first_done](std::uint64_t done, std::uint64_t) {
                           if (first_done == 0) first_done = done;
                         }));
  const std::vector<PackedPart> rest(parts.begin() + kDone, parts.end());
  EXPECT_EQ(second.announced, rest);
  EXPECT_EQ(second.reads, rest);
  EXPECT_GT(first_done, parts[0].size_bytes() * 10);
  EXPECT_EQ(arena.filled_key(), expected.filled_key());
  EXPECT_TRUE(std::ranges::equal(arena.bytes(), expected.bytes()));
}

TEST(Load, AnotherKeyStartsAtTheBeginning) {
  WeightArena arena = memory_of(cpu_slice_bytes(ember(), whole_slice(), {}));
  CountingSource dying(50);
  ASSERT_FALSE(load_slice(ember(), three_slices()[1], {}, dying, arena, {}));
  EXPECT_EQ(reads_of(three_slices()[2], {}, arena),
            list_slice_parts(ember(), three_slices()[2], {}).size());
}

TEST(Load, AnArenaTooSmallForTheModelIsAnError) {
  WeightArena arena = memory_of(cpu_slice_bytes(ember(), whole_slice(), {}) - 4096);
  CountingSource from;
  const auto loaded = load_slice(ember(), whole_slice(), {}, from, arena, {});
  ASSERT_FALSE(loaded);
  EXPECT_NE(loaded.error().message.find("has changed"), std::string::npos);
  EXPECT_TRUE(from.reads.empty());
}

TEST(Load, TheEmbeddingIsOnlyWhereItIsAskedFor) {
  const std::size_t embedding = ember().matrix({}, model::Weight::kEmbedding).weights.size();
  EXPECT_EQ(cpu_common_bytes(ember(), true, {}), cpu_common_bytes(ember(), false, {}) + embedding);
  EXPECT_EQ(list_common_parts(ember(), true, {}).size(),
            list_common_parts(ember(), false, {}).size() + 1);
}

TEST(Load, ThreeSlicesReadWhatTheWholeReads) {
  const auto weights = [](const model::Slice& slice) {
    std::size_t sum = 0;
    for (const PackedPart& part : list_slice_parts(ember(), slice, {})) {
      EXPECT_GT(part.size_bytes(), 0u);
      sum += part.rows.size() * part.cols.size();
    }
    return sum;
  };
  std::size_t sum = 0;
  for (const model::Slice& slice : three_slices()) sum += weights(slice);
  EXPECT_EQ(sum, weights(whole_slice()));
  EXPECT_EQ(weights(no_slice()), 0u);
}

// Every kind of matrix, in parts of at most 10,000 bytes, packs to the bytes of the whole.
TEST(Divide, PartsFollowEachOther) {
  ThreadPool pool(1);
  std::vector<PackedPart> wholes = {
      {LayerId{1},
       model::Weight::kKvB,
       {},
       {64, 128},
       {0, 128},
       true,
       kernels::PackedFormat::kBF16},
      {LayerId{1}, model::Weight::kO, {}, {0, 384}, {64, 256}, false, kernels::PackedFormat::kInt8},
      {LayerId{2},
       model::Weight::kExpertUp,
       ExpertId{3},
       {32, 128},
       {0, 384},
       false,
       kernels::PackedFormat::kInt4},
      {{}, model::Weight::kEmbedding, {}, {0, 100}, {0, 384}, false, kernels::PackedFormat::kBF16},
      {LayerId{0},
       model::Weight::kKvA,
       {},
       {0, 25},
       {0, 384},
       false,
       kernels::PackedFormat::kBF16}};
  for (const PackedPart& whole : wholes) {
    std::vector<std::byte> expected(whole.size_bytes());
    ASSERT_TRUE(pack_part(ember(), whole, pool, expected));
    std::vector<Placed> parts;
    divide({whole, 0}, 10'000, parts);
    EXPECT_GT(parts.size(), 1u);
    std::vector<std::byte> bytes(whole.size_bytes());
    for (const Placed& placed : parts) {
      const std::size_t size = placed.part.size_bytes();
      EXPECT_LE(size, std::max<std::size_t>(10'000, std::size_t{384} * 2 * 16));
      ASSERT_TRUE(
          pack_part(ember(), placed.part, pool, std::span(bytes).subspan(placed.offset, size)));
    }
    EXPECT_EQ(bytes, expected) << describe(whole);
  }
}

class AttachTest : public testing::Test {
 protected:
  Result<std::unique_ptr<Backend>> make(const model::Slice& slice) {
    return make_cpu_backend(ember(), {common_, true, {{slice, arena_}}, kv_}, options_);
  }

  CpuOptions options_ = with_limits({});
  WeightArena common_ = common_arena(true, options_);
  WeightArena arena_ = slice_arena(whole_slice(), options_);
  SharedMemory kv_ = memory_of(cpu_kv_bytes(ember().config(), options_.limits, options_.exact));
};

TEST_F(AttachTest, ArenasThatHoldSomethingElseAreErrors) {
  EXPECT_TRUE(make(whole_slice()));
  const auto other = make(three_slices()[0]);
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("load it first"), std::string::npos);
  EXPECT_FALSE(make_cpu_backend(ember(), {common_, false, {}, kv_}, options_));
  EXPECT_FALSE(make_cpu_backend(ember(), {arena_, true, {}, kv_}, options_));
  arena_.set_filled_key(0);
  EXPECT_FALSE(make(whole_slice()));
}

TEST_F(AttachTest, KvMemoryThatIsTooSmallIsAnError) {
  kv_ = memory_of(kv_.bytes().size() - 1);
  EXPECT_FALSE(make(whole_slice()));
  options_.limits.pages = 0;
  EXPECT_FALSE(make(whole_slice()));
}

// The process of a worker ends between two steps; the next one maps what it left.
TEST_F(AttachTest, ANewWorkerGoesOnWithTheSameBits) {
  const std::vector<Part> prompt = {{some_tokens(70, 1), 0, {2, 5}}};
  const std::vector<Part> next = {{some_tokens(1, 2), 70, {2, 5}, true}};
  const Node undisturbed = make_node({});
  (void)run(undisturbed, prompt);
  {
    auto first = make(whole_slice());
    ASSERT_TRUE(first) << first.error().message;
    Backend* const rank = first->get();
    (void)run(std::span(&rank, 1), prompt);
  }
  const WeightArena common = attached(common_);
  const WeightArena arena = attached(arena_);
  SharedMemory kv = attached(kv_);
  EXPECT_EQ(kv.filled_key(), cpu_kv_key(ember(), options_));
  auto second = make_cpu_backend(ember(), {common, true, {{whole_slice(), arena}}, kv}, options_);
  ASSERT_TRUE(second) << second.error().message;
  Backend* const rank = second->get();
  EXPECT_EQ(run(std::span(&rank, 1), next), run(undisturbed, next));
}

TEST_F(AttachTest, KvOfAnotherLayoutIsCleared) {
  auto backend = make(whole_slice());
  ASSERT_TRUE(backend);
  Backend* const rank = backend->get();
  (void)run(std::span(&rank, 1), {{some_tokens(3, 1), 0, {2}}});
  const auto is_zero = [this] {
    return std::ranges::all_of(kv_.bytes(), [](std::byte b) { return b == std::byte{0}; });
  };
  EXPECT_FALSE(is_zero());
  ASSERT_TRUE(make(whole_slice()));
  EXPECT_FALSE(is_zero());
  const std::uint64_t key = kv_.filled_key();
  options_.limits.pages -= 1;
  ASSERT_TRUE(make(whole_slice()));
  EXPECT_TRUE(is_zero());
  EXPECT_NE(kv_.filled_key(), key);
  EXPECT_EQ(kv_.filled_key(), cpu_kv_key(ember(), options_));
  EXPECT_EQ(cpu_kv_key(ember(), options_) == cpu_kv_key(ember(), {}), false);
}

}  // namespace
}  // namespace conclave::backend
