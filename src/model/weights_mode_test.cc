#include <gtest/gtest.h>

#include "model/model.h"

namespace conclave::model {
namespace {

using kernels::PackedFormat;
using kernels::SourceFormat;

TEST(WeightsMode, Parses) {
  EXPECT_EQ(*parse_weights_mode("native"), WeightsMode::kNative);
  EXPECT_EQ(*parse_weights_mode("int8"), WeightsMode::kInt8);
  EXPECT_EQ(parse_weights_mode("int9").error().message,
            "--weights: \"int9\", expected native, int8 or int4");
}

TEST(WeightsMode, RouterAndInt4AreNeverQuantized) {
  for (const WeightsMode mode : {WeightsMode::kNative, WeightsMode::kInt8, WeightsMode::kInt4}) {
    EXPECT_EQ(parse_weights_mode(name(mode)).value(), mode);
    EXPECT_EQ(kept_format(Weight::kRouter, SourceFormat::kBF16, mode), PackedFormat::kF32);
    EXPECT_EQ(kept_format(Weight::kExpertUp, SourceFormat::kInt4Group, mode), PackedFormat::kInt4);
    EXPECT_EQ(kept_format(Weight::kEmbedding, SourceFormat::kBF16, mode), PackedFormat::kBF16);
  }
  EXPECT_EQ(kept_format(Weight::kO, SourceFormat::kFp8Block, WeightsMode::kNative),
            PackedFormat::kFp8);
  EXPECT_EQ(kept_format(Weight::kO, SourceFormat::kFp8Block, WeightsMode::kInt8),
            PackedFormat::kInt8);
  EXPECT_EQ(kept_format(Weight::kHead, SourceFormat::kF16, WeightsMode::kInt8),
            PackedFormat::kInt8);
}

TEST(WeightsMode, Int4SparesTheHeadAndWhatMakesKeysAndValues) {
  for (const Weight weight : {Weight::kQ, Weight::kO, Weight::kExpertDown, Weight::kSharedUp}) {
    EXPECT_EQ(kept_format(weight, SourceFormat::kBF16, WeightsMode::kInt4), PackedFormat::kInt4);
  }
  for (const Weight weight : {Weight::kHead, Weight::kKvB, Weight::kK, Weight::kV}) {
    EXPECT_EQ(kept_format(weight, SourceFormat::kFp8Block, WeightsMode::kInt4),
              PackedFormat::kInt8);
  }
}

}  // namespace
}  // namespace conclave::model
