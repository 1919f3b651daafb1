#include "model/skeleton.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

class SkeletonTest : public CheckpointDirTest {
 protected:
  void TearDown() override {
    std::filesystem::remove_all(copy());
    CheckpointDirTest::TearDown();
  }
  std::filesystem::path copy() const { return dir_.string() + "_skeleton"; }

  // A folder of sparse files with these ranges of `dir` filled, as a node makes it.
  void write_copy(const std::filesystem::path& dir, const std::vector<FileRange>& ranges) const {
    std::filesystem::remove_all(copy());
    std::filesystem::create_directories(copy());
    for (const FileRange& range : ranges) {
      const std::filesystem::path to = copy() / range.file;
      if (!std::filesystem::exists(to)) {
        std::ofstream(to).flush();
        std::filesystem::resize_file(to, range.file_bytes);
      }
      std::string bytes(range.bytes, '\0');
      std::ifstream in(dir / range.file, std::ios::binary);
      in.seekg(static_cast<std::streamoff>(range.offset));
      ASSERT_TRUE(in.read(bytes.data(), static_cast<std::streamsize>(bytes.size())));
      std::fstream out(to, std::ios::binary | std::ios::in | std::ios::out);
      out.seekp(static_cast<std::streamoff>(range.offset));
      out << bytes;
    }
  }
};

// Sorted by file and offset, and a gap between any two of a file.
void expect_merged(const std::vector<FileRange>& ranges) {
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    EXPECT_LE(ranges[i].offset + ranges[i].bytes, ranges[i].file_bytes);
    if (i == 0) continue;
    const FileRange& before = ranges[i - 1];
    EXPECT_TRUE(before.file < ranges[i].file ||
                (before.file == ranges[i].file && before.offset + before.bytes < ranges[i].offset));
  }
}

std::uint64_t total(const std::vector<FileRange>& ranges) {
  std::uint64_t sum = 0;
  for (const FileRange& range : ranges) sum += range.bytes;
  return sum;
}

TEST_F(SkeletonTest, EveryKindOfCheckpointOpensFromItsSkeleton) {
  using Kind = TestCheckpoint::Kind;
  for (const Kind kind : {Kind::kBf16, Kind::kInt4Experts, Kind::kFp8, Kind::kFused}) {
    const auto source = open(TestCheckpoint(kind));
    ASSERT_TRUE(source) << source.error().message;
    const auto ranges = skeleton(*source);
    ASSERT_TRUE(ranges) << ranges.error().message;
    expect_merged(*ranges);
    write_copy(dir_, *ranges);
    const auto copied = ModelSource::open(copy());
    ASSERT_TRUE(copied) << copied.error().message;
    EXPECT_EQ(copied->fingerprint(), source->fingerprint());
    EXPECT_EQ(copied->norm(LayerId{2}, Norm::kKvA), source->norm(LayerId{2}, Norm::kKvA));
    EXPECT_EQ(copied->router_bias(LayerId{1}), source->router_bias(LayerId{1}));
    EXPECT_EQ(copied->matrix({}, Weight::kHead).rows, 64u);
    // Not the weights themselves.
    const kernels::SourceMatrix head = copied->matrix({}, Weight::kHead);
    EXPECT_TRUE(std::ranges::all_of(head.weights.subspan(kHashedBytes),
                                    [](std::byte b) { return b == std::byte{0}; }));
  }
}

TEST_F(SkeletonTest, AnythingMissingShows) {
  const auto source = open(TestCheckpoint(TestCheckpoint::Kind::kInt4Experts));
  ASSERT_TRUE(source);
  const std::vector<FileRange> ranges = skeleton(*source).value();
  ASSERT_GT(ranges.size(), 3u);
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    std::vector<FileRange> rest = ranges;
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(i));
    write_copy(dir_, rest);
    const auto copied = ModelSource::open(copy());
    EXPECT_FALSE(copied && copied->fingerprint() == source->fingerprint()) << ranges[i].offset;
  }
}

TEST_F(SkeletonTest, EmberWithItsTokenizerTakesALittle) {
  const std::filesystem::path ember = "models/ember";
  const auto source = ModelSource::open(ember);
  ASSERT_TRUE(source) << source.error().message;
  const auto ranges = skeleton(*source);
  ASSERT_TRUE(ranges) << ranges.error().message;
  expect_merged(*ranges);
  EXPECT_LT(total(*ranges), source->file_bytes() / 20);
  for (const std::string name :
       {"config.json", "generation_config.json", "tiktoken.model", "tokenizer_config.json",
        "chat_template.jinja", "model.safetensors.index.json"}) {
    const auto whole = std::ranges::find(*ranges, name, &FileRange::file);
    ASSERT_NE(whole, ranges->end()) << name;
    EXPECT_EQ(whole->bytes, std::filesystem::file_size(ember / name));
  }
  EXPECT_EQ(std::ranges::find(*ranges, "README.md", &FileRange::file), ranges->end());
  write_copy(ember, *ranges);
  const auto copied = ModelSource::open(copy());
  ASSERT_TRUE(copied) << copied.error().message;
  EXPECT_EQ(copied->fingerprint(), source->fingerprint());
}

}  // namespace
}  // namespace conclave::model
