#include "cluster/bulk_messages.h"

#include <gtest/gtest.h>

#include <cstring>

namespace conclave::cluster {
namespace {

BulkRequest part_request() {
  BulkRequest request{.kind = BulkKind::kPart, .id = 7};
  request.part = backend::PackedPart{
      LayerId{3},           model::Weight::kExpertDown,  ExpertId{7}, {16, 80}, {32, 96},
      /*transposed=*/false, kernels::PackedFormat::kInt4};
  return request;
}

template <class Bytes, class Value>
Bytes spoilt(Bytes bytes, std::size_t offset, Value value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  return bytes;
}

std::string error_of(const std::array<std::byte, kBulkRequestSize>& bytes) {
  const auto request = decode_request(bytes);
  return request ? "decoded" : request.error().message;
}

std::string error_of(const std::array<std::byte, kBulkAnswerSize>& bytes) {
  const auto answer = decode_answer(bytes);
  return answer ? "decoded" : answer.error().message;
}

TEST(BulkMessages, RequestsComeBack) {
  const BulkRequest chunk{
      .kind = BulkKind::kSkeletonBytes, .id = 2, .offset = 5, .bytes = kSkeletonChunkMax};
  const BulkRequest hello{.kind = BulkKind::kModel, .id = 1, .model = 0xfedcba9876543210u};
  const BulkRequest list{.kind = BulkKind::kSkeleton, .id = ~std::uint64_t{0}};
  for (const BulkRequest& request : {hello, list, chunk, part_request()}) {
    const auto decoded = decode_request(encode(request));
    ASSERT_TRUE(decoded) << decoded.error().message;
    EXPECT_EQ(*decoded, request);
  }
}

TEST(BulkMessages, ARequestThatIsWrongIsNamed) {
  const auto hello = encode(BulkRequest{.kind = BulkKind::kModel, .id = 1, .model = 2});
  EXPECT_NE(error_of(spoilt(hello, 0, std::uint8_t{0})).find("kind 0"), std::string::npos);
  EXPECT_NE(error_of(spoilt(hello, 0, std::uint8_t{255})).find("kind 255"), std::string::npos);
  EXPECT_NE(error_of(spoilt(hello, 3, std::uint8_t{1})).find("padding at 1"), std::string::npos);
  EXPECT_NE(error_of(spoilt(hello, 40, std::uint8_t{1})).find("padding at 32"), std::string::npos);
  EXPECT_NE(error_of(spoilt(hello, 16, std::uint32_t{9})).find("version 9"), std::string::npos);
  const auto chunk = encode(BulkRequest{.kind = BulkKind::kSkeletonBytes, .id = 1, .bytes = 1});
  EXPECT_NE(error_of(spoilt(chunk, 24, std::uint64_t{0})).find("size 0"), std::string::npos);
  EXPECT_NE(error_of(spoilt(chunk, 24, kSkeletonChunkMax + 1)).find("size 4194305"),
            std::string::npos);
  EXPECT_NE(error_of(spoilt(chunk, 16, ~std::uint64_t{0})).find("offset"), std::string::npos);
  EXPECT_NE(error_of(spoilt(encode(part_request()), 17, std::uint8_t{99})).find("weight 99"),
            std::string::npos);
}

TEST(BulkMessages, AnswersComeBackWithinTheirLimits) {
  const BulkAnswer part{.kind = BulkKind::kPart,
                        .id = 3,
                        .bytes = backend::kPartBytesMax,
                        .hash = hash_of(std::as_bytes(std::span("x")))};
  const BulkAnswer refused{
      .kind = BulkKind::kRefused, .code = ErrorCode::kCorrupt, .id = 4, .bytes = kRefusalMax};
  for (const BulkAnswer& answer : {part, refused}) {
    const auto decoded = decode_answer(encode(answer));
    ASSERT_TRUE(decoded) << decoded.error().message;
    EXPECT_EQ(decoded->kind, answer.kind);
    EXPECT_EQ(decoded->id, answer.id);
    EXPECT_EQ(decoded->bytes, answer.bytes);
    EXPECT_EQ(decoded->hash, answer.hash);
  }
  EXPECT_EQ(decode_answer(encode(refused))->code, ErrorCode::kCorrupt);
  EXPECT_NE(error_of(spoilt(encode(part), 0, std::uint8_t{9})).find("kind 9"), std::string::npos);
  EXPECT_NE(error_of(spoilt(encode(part), 1, std::uint8_t{1})).find("code 1"), std::string::npos);
  EXPECT_NE(error_of(spoilt(encode(refused), 1, std::uint8_t{6})).find("code 6"),
            std::string::npos);
  EXPECT_NE(error_of(spoilt(encode(part), 16, backend::kPartBytesMax + 1)).find("size"),
            std::string::npos);
  EXPECT_NE(error_of(spoilt(encode(refused), 16, kRefusalMax + 1)).find("size"), std::string::npos);
}

TEST(BulkMessages, TheHashIsSha256) {
  const std::string text = "abc";
  const Hash hash = hash_of(std::as_bytes(std::span(text)));
  EXPECT_EQ(hash[0], std::byte{0xba});
  EXPECT_EQ(hash[31], std::byte{0xad});
  Hasher hasher;
  for (int i = 0; i < 2; ++i) {  // it begins anew
    hasher.add(std::as_bytes(std::span(text).first(1)));
    hasher.add(std::as_bytes(std::span(text).subspan(1)));
    EXPECT_EQ(hasher.finish(), hash);
  }
}

// --- skeletons --------------------------------------------------------------------------------

std::vector<model::FileRange> ranges() {
  return {{"config.json", 0, 12, 12},
          {"model.safetensors", 0, 8, 100},
          {"model.safetensors", 50, 10, 100}};
}

std::string skeleton_error(const std::vector<model::FileRange>& wrong) {
  const auto read = skeleton_ranges(skeleton_message(wrong));
  return read ? "read" : read.error().message;
}

TEST(BulkMessages, SkeletonsComeBack) {
  const wire::pb::Skeleton message = skeleton_message(ranges());
  EXPECT_EQ(message.files_size(), 2);
  const auto read = skeleton_ranges(message);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(*read, ranges());
  EXPECT_EQ(total_bytes(*read), 30u);
}

TEST(BulkMessages, ASkeletonStaysInItsFolderAndItsFiles) {
  for (const char* name : {"", "..", ".hidden", "a/b", "../up", "a\\b", "line\nend"}) {
    EXPECT_NE(skeleton_error({{name, 0, 1, 1}}).find("plain file name"), std::string::npos) << name;
  }
  EXPECT_NE(skeleton_error({{"b", 0, 1, 1}, {"a", 0, 1, 1}}).find("not in order"),
            std::string::npos);
  EXPECT_NE(skeleton_error({{"a", 90, 11, 100}}).find("out of place"), std::string::npos);
  EXPECT_NE(skeleton_error({{"a", 101, 0, 100}}).find("out of place"), std::string::npos);
  EXPECT_NE(skeleton_error({{"a", 10, 5, 100}, {"a", 14, 5, 100}}).find("out of place"),
            std::string::npos);
  EXPECT_NE(skeleton_error({{"a", 1, ~std::uint64_t{0}, 100}}).find("out of place"),
            std::string::npos);
  EXPECT_NE(skeleton_error({{"a", 0, 0, 100}}).find("no bytes"), std::string::npos);
  EXPECT_NE(skeleton_error({{"a", 0, 1, kSkeletonFileMax + 1}}).find("too large"),
            std::string::npos);
  const std::uint64_t much = kSkeletonBytesMax;
  EXPECT_NE(skeleton_error({{"a", 0, much, much}, {"b", 0, 1, 1}}).find("too large"),
            std::string::npos);
  wire::pb::Skeleton uneven = skeleton_message(ranges());
  uneven.mutable_files(1)->add_offsets(99);
  EXPECT_FALSE(skeleton_ranges(uneven));
}

TEST(BulkMessages, WhatPeersSayIsPrintable) {
  EXPECT_EQ(printable("a\nb\x7f\x1b[1m"), "a?b??[1m");
  EXPECT_EQ(hex_text(0x2f00c3), "2f00c3");
}

}  // namespace
}  // namespace conclave::cluster
