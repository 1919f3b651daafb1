#include "hub/hash.h"

#include <gtest/gtest.h>

#include <fstream>

namespace conclave::hub {
namespace {

std::string hash_of(Digest::Kind kind, std::string_view text) {
  Hasher hasher(kind, text.size());
  hasher.add(std::as_bytes(std::span(text)));
  return hasher.hex();
}

// As sha256sum and git hash-object print them.
TEST(Hasher, KnownValues) {
  EXPECT_EQ(hash_of(Digest::Kind::kSha256, "abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hash_of(Digest::Kind::kGitBlob, "hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_EQ(hash_of(Digest::Kind::kGitBlob, ""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

TEST(HashFile, ReadsAllAndStopsWhenAsked) {
  const std::string file = testing::TempDir() + "/conclave_hash_file";
  std::ofstream(file, std::ios::binary) << std::string((5 << 20) + 3, 'x');
  std::uint64_t seen = 0;
  const auto hash = hash_file(file, Digest::Kind::kSha256, [&seen](std::uint64_t bytes) {
    seen += bytes;
    return true;
  });
  ASSERT_TRUE(hash && *hash);
  EXPECT_EQ(seen, (5u << 20) + 3);
  EXPECT_EQ(**hash, hash_of(Digest::Kind::kSha256, std::string((5 << 20) + 3, 'x')));
  const auto stopped = hash_file(file, Digest::Kind::kSha256, [](std::uint64_t) { return false; });
  ASSERT_TRUE(stopped);
  EXPECT_FALSE(*stopped);
  EXPECT_FALSE(
      hash_file("/no/such/file", Digest::Kind::kSha256, [](std::uint64_t) { return true; }));
}

}  // namespace
}  // namespace conclave::hub
