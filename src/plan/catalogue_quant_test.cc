#include <gtest/gtest.h>

#include "plan/catalogue.h"

namespace conclave::plan {
namespace {

TEST(PartFormat, Names) {
  const PartFormat shipped = *parse_part_format("int4-g32");
  EXPECT_EQ(shipped.format, Format::kInt4);
  EXPECT_DOUBLE_EQ(shipped.bytes_per_parameter, 0.5625);
  EXPECT_EQ((*parse_part_format("q6_k")).format, Format::kInt8);
  EXPECT_DOUBLE_EQ((*parse_part_format("q6_k")).bytes_per_parameter * 8.0, 6.5625);
  EXPECT_EQ((*parse_part_format("fp8-128")).format, Format::kFp8);
  EXPECT_DOUBLE_EQ((*parse_part_format("fp8-128")).bytes_per_parameter, 1.0 + 4.0 / 16384.0);
  EXPECT_EQ((*parse_part_format("f16")).format, Format::kBf16);
  EXPECT_DOUBLE_EQ((*parse_part_format("f32")).bytes_per_parameter, 4.0);
}

TEST(PartFormat, NumbersOfBits) {
  EXPECT_EQ((*parse_part_format("4.5")).format, Format::kInt4);
  EXPECT_DOUBLE_EQ((*parse_part_format("4.5")).bytes_per_parameter, 0.5625);
  EXPECT_EQ((*parse_part_format("6")).format, Format::kInt4);
  EXPECT_EQ((*parse_part_format("6.5")).format, Format::kInt8);
  EXPECT_EQ((*parse_part_format("9")).format, Format::kInt8);
  EXPECT_EQ((*parse_part_format("16")).format, Format::kBf16);
  EXPECT_EQ((*parse_part_format("32")).format, Format::kF32);
}

TEST(PartFormat, AnythingElseIsAnError) {
  for (const char* text : {"", "int", "0", "-4", "nan", "inf", "1e9", "4.5 ", "4.5bits", "0x4"}) {
    EXPECT_FALSE(parse_part_format(text)) << text;
  }
  EXPECT_NE(parse_part_format("int4-g33").error().message.find("int4-g32"), std::string::npos);
}

TEST(QuantOf, NativeKeepsWhatShips) {
  const PartFormat int4 = *parse_part_format("int4-g32");
  const PartFormat bf16 = *parse_part_format("bf16");
  const Quant quant = quant_of(model::WeightsMode::kNative, int4, bf16);
  EXPECT_DOUBLE_EQ(quant.of(Part::kRouted).bytes_per_parameter, 0.5625);
  EXPECT_DOUBLE_EQ(quant.of(Part::kHead).bytes_per_parameter, 2.0);
  EXPECT_EQ(quant.of(Part::kRouter).format, Format::kF32);
  EXPECT_DOUBLE_EQ(quant.kv_bytes_per_element, 2.0);
}

TEST(QuantOf, Int8LeavesInt4RouterAndEmbedding) {
  const PartFormat int4 = *parse_part_format("int4-g32");
  const PartFormat bf16 = *parse_part_format("bf16");
  const Quant quant = quant_of(model::WeightsMode::kInt8, int4, bf16);
  EXPECT_DOUBLE_EQ(quant.of(Part::kRouted).bytes_per_parameter, 0.5625);
  for (const Part part :
       {Part::kAttention, Part::kAttentionSmall, Part::kShared, Part::kDense, Part::kHead}) {
    EXPECT_EQ(quant.of(part).format, Format::kInt8) << name_of(part);
    EXPECT_DOUBLE_EQ(quant.of(part).bytes_per_parameter, 1.0625) << name_of(part);
  }
  EXPECT_EQ(quant.of(Part::kRouter).format, Format::kF32);
  EXPECT_EQ(quant.of(Part::kEmbedding).format, Format::kBf16);
  EXPECT_EQ(quant_of(model::WeightsMode::kInt8, bf16, bf16).of(Part::kRouted).format,
            Format::kInt8);
}

}  // namespace
}  // namespace conclave::plan
