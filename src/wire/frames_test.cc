#include "wire/frames.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/rng.h"
#include "wire/wire.h"

namespace conclave::wire {
namespace {

pb::FromWorker token(std::uint64_t request, std::uint64_t index) {
  pb::FromWorker message;
  message.mutable_token()->set_request(request);
  message.mutable_token()->set_index(index);
  return message;
}

std::string frames_of(std::size_t count) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) EXPECT_TRUE(append_frame(token(7, i), bytes));
  return bytes;
}

std::vector<std::uint64_t> read_all(FrameReader& reader) {
  std::vector<std::uint64_t> indices;
  for (;;) {
    const auto frame = reader.next();
    EXPECT_TRUE(frame);
    if (!frame || !frame.value()) return indices;
    const auto message = parse<pb::FromWorker>(*frame.value());
    EXPECT_TRUE(message);
    if (message) indices.push_back(message.value().token().index());
  }
}

TEST(Frames, LengthIsLittleEndianAndCountsThePayloadOnly) {
  pb::Failed failed;
  failed.set_error("ab");
  std::string bytes;
  ASSERT_TRUE(append_frame(failed, bytes));
  EXPECT_EQ(bytes, std::string("\x04\x00\x00\x00\x0a\x02"
                               "ab",
                               8));
}

TEST(Frames, AnyCutOfTheStreamGivesTheSameMessages) {
  const std::string bytes = frames_of(20);
  SplitMix random(3);
  for (int round = 0; round < 200; ++round) {
    FrameReader reader;
    std::vector<std::uint64_t> seen;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t n = std::min<std::size_t>(bytes.size() - at, random.next() % 24);
      reader.push(std::string_view(bytes).substr(at, n));
      at += n;
      for (const std::uint64_t index : read_all(reader)) seen.push_back(index);
    }
    ASSERT_EQ(seen.size(), 20u) << "round " << round;
    for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], i);
    EXPECT_EQ(reader.held_bytes(), 0u);
  }
}

TEST(Frames, AnEmptyMessageIsAFrameOfItsOwn) {
  std::string bytes;
  ASSERT_TRUE(append_frame(pb::FromWorker(), bytes));
  FrameReader reader;
  reader.push(bytes);
  const auto frame = reader.next();
  ASSERT_TRUE(frame);
  ASSERT_TRUE(frame.value().has_value());
  EXPECT_EQ(frame.value()->size(), 0u);
}

TEST(Frames, ALengthAboveTheLimitIsAnErrorBeforeItsBytesArrive) {
  FrameReader reader;
  reader.push(std::string("\x01\x00\x00\x04", 4));  // 64 MiB + 1
  EXPECT_FALSE(reader.next());
  reader.push("more");
  const auto again = reader.next();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kCorrupt);
}

TEST(Frames, AMessageAboveTheLimitIsRefusedAndLeavesTheBufferAlone) {
  pb::Failed failed;
  failed.set_error(std::string(kFrameSizeMax, 'x'));
  std::string bytes = "before";
  const auto result = append_frame(failed, bytes);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kExhausted);
  EXPECT_EQ(bytes, "before");
}

TEST(Frames, BytesThatAreNoMessageAreAnError) {
  const auto message = parse<pb::FromWorker>("\xff\xff\xff");
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace conclave::wire
