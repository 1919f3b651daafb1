#include "backend/packed_part.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "backend/test_model.h"

namespace conclave::backend {
namespace {

using kernels::PackedFormat;
using model::Weight;

PackedPart expert_part() {
  return {LayerId{3}, Weight::kExpertDown,  ExpertId{7},        {16, 80},
          {32, 96},   /*transposed=*/false, PackedFormat::kInt4};
}

Result<void> pack(const PackedPart& part, std::size_t bytes) {
  ThreadPool pool(1);
  std::vector<std::byte> out(bytes);
  return pack_part(ember(), part, pool, out);
}
Result<void> pack(const PackedPart& part) { return pack(part, part.size_bytes()); }

std::string decode_error(std::span<const std::byte> bytes) {
  const auto part = decode_part(bytes);
  if (part) return "decoded";
  EXPECT_EQ(part.error().code, ErrorCode::kCorrupt);
  return part.error().message;
}

TEST(PackedPart, EncodesAndDecodes) {
  PackedPart transposed{LayerId{1}, Weight::kKvB, {}, {0, 64}, {0, 128}, true, PackedFormat::kBF16};
  PackedPart embedding{{},    Weight::kEmbedding, {}, {100, 200}, {0, 384},
                       false, PackedFormat::kBF16};
  PackedPart straddling{LayerId{60}, Weight::kO,        {}, {0, 16}, {100, 300},
                        false,       PackedFormat::kFp8};
  EXPECT_EQ(embedding.size_bytes(), 100u * 384u * 2u);
  EXPECT_EQ(straddling.block_offset(), 100u);
  for (const PackedPart& part : {expert_part(), transposed, embedding, straddling}) {
    const auto bytes = encode_part(part);
    const auto decoded = decode_part(bytes);
    ASSERT_TRUE(decoded) << decoded.error().message;
    EXPECT_EQ(*decoded, part) << describe(part);
  }
}

TEST(PackedPart, DecodingNamesTheFieldThatIsWrong) {
  const auto good = encode_part(expert_part());
  const auto spoilt = [&good](std::size_t offset, auto value) {
    auto bytes = good;
    std::memcpy(bytes.data() + offset, &value, sizeof value);
    return decode_error(bytes);
  };
  using U8 = std::uint8_t;
  using U32 = std::uint32_t;
  EXPECT_NE(decode_error(std::span(good).first(31)).find("size 31"), std::string::npos);
  EXPECT_NE(spoilt(0, U8{9}).find("version 9"), std::string::npos);
  EXPECT_NE(spoilt(1, U8{20}).find("weight 20"), std::string::npos);
  EXPECT_NE(spoilt(2, U8{10}).find("format 10"), std::string::npos);
  EXPECT_NE(spoilt(3, U8{2}).find("transposed 2"), std::string::npos);
  EXPECT_NE(spoilt(8, U32{80}).find("rows 80"), std::string::npos);  // empty
  EXPECT_NE(spoilt(12, U32{0xffffffff}).find("rows 4294967295"), std::string::npos);
  EXPECT_NE(spoilt(16, U32{97}).find("columns 97"), std::string::npos);  // backwards
  EXPECT_NE(spoilt(24, U32{1}).find("bytes 1,"), std::string::npos);
  EXPECT_NE(spoilt(8, U32{0}).find("expected"), std::string::npos);  // other rows, the old size
  EXPECT_NE(spoilt(1, static_cast<U8>(Weight::kO)).find("expert 7"), std::string::npos);
  PackedPart head{LayerId{2}, Weight::kHead, {}, {0, 16}, {0, 32}, false, PackedFormat::kF32};
  EXPECT_NE(decode_error(encode_part(head)).find("layer 2"), std::string::npos);
  PackedPart embedding{{}, Weight::kEmbedding, {}, {0, 16}, {0, 32}, false, PackedFormat::kFp8};
  EXPECT_NE(decode_error(encode_part(embedding)).find("format"), std::string::npos);
  PackedPart large{{}, Weight::kHead, {}, {0, 1 << 20}, {0, 1024}, false, PackedFormat::kF32};
  EXPECT_NE(decode_error(encode_part(large)).find("at most"), std::string::npos);
}

TEST(PackPart, RefusesWhatTheCheckpointDoesNotHave) {
  EXPECT_TRUE(pack(expert_part()));
  const auto refused = [](auto change) {
    PackedPart part = expert_part();
    change(part);
    const auto packed = pack(part);
    ASSERT_FALSE(packed) << describe(part);
    EXPECT_EQ(packed.error().code, ErrorCode::kInvalidInput);
  };
  refused([](PackedPart& p) { p.layer = LayerId{0}; });  // dense
  refused([](PackedPart& p) { p.layer = LayerId{8}; });
  refused([](PackedPart& p) { p.layer = LayerId{0xffff}; });
  refused([](PackedPart& p) { p.expert = ExpertId{32}; });
  refused([](PackedPart& p) { p.weight = Weight::kQ; });  // q_lora: there is no kQ
  refused([](PackedPart& p) { p.rows = {16, 385}; });
  refused([](PackedPart& p) { p.rows = {400, 416}; });
  refused([](PackedPart& p) { p.rows = {16, 16}; });
  refused([](PackedPart& p) { p.cols = {32, 160}; });
  refused([](PackedPart& p) { p.cols = {40, 72}; });  // half a group
  refused([](PackedPart& p) { p.cols = {32, 80}; });
  refused([](PackedPart& p) { p.transposed = true; });
  refused([](PackedPart& p) { p.format = PackedFormat::kBF16; });
  refused([](PackedPart& p) { p.format = PackedFormat::kFp8; });
  refused([](PackedPart& p) {
    p = {LayerId{0}, Weight::kO, {}, {0, 16}, {0, 32}, false, PackedFormat::kMxfp4};
  });
  refused([](PackedPart& p) {
    p = {{}, Weight::kEmbedding, {}, {0, 16}, {0, 32}, false, PackedFormat::kBF16};
  });
  const PackedPart part = expert_part();
  EXPECT_FALSE(pack(part, part.size_bytes() - 1));
  EXPECT_FALSE(pack(part, 0));
}

// What a peer packs part by part is what a local loader would have put there.
TEST(PackPart, ListedPartsAreTheArenasContents) {
  const CpuOptions options{.weights = model::WeightsMode::kInt8};
  const model::Slice slice = three_slices()[1];
  const WeightArena arena = slice_arena(slice, options);
  const std::vector<PackedPart> parts = list_slice_parts(ember(), slice, options);
  ThreadPool pool(2);
  std::size_t offset = 0;
  for (const PackedPart& listed : parts) {
    const auto part = decode_part(encode_part(listed));
    ASSERT_TRUE(part) << part.error().message;
    std::vector<std::byte> bytes(part->size_bytes());
    ASSERT_TRUE(pack_part(ember(), *part, pool, bytes));
    ASSERT_EQ(std::memcmp(bytes.data(), arena.bytes().data() + offset, bytes.size()), 0)
        << describe(*part);
    offset = (offset + bytes.size() + 4095) / 4096 * 4096;
  }
  EXPECT_EQ(offset, arena.bytes().size());
}

TEST(PackPart, TheEmbeddingIsRowsOfTheFile) {
  const PackedPart part{{}, Weight::kEmbedding, {}, {5, 9}, {0, 384}, false, PackedFormat::kBF16};
  ThreadPool pool(1);
  std::vector<std::byte> out(part.size_bytes());
  ASSERT_TRUE(pack_part(ember(), part, pool, out));
  const std::size_t row_bytes = std::size_t{384} * 2;
  const kernels::SourceMatrix source = ember().matrix({}, Weight::kEmbedding);
  EXPECT_EQ(std::memcmp(out.data(), source.weights.data() + 5 * row_bytes, out.size()), 0);
}

}  // namespace
}  // namespace conclave::backend
