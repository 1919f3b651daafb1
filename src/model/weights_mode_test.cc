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

// Nothing that has whole numbers already is rounded to as many bits again.
TEST(WeightsMode, WholeNumbersOfFilesStayWhereTheyAreNarrowEnough) {
  for (const WeightsMode mode : {WeightsMode::kNative, WeightsMode::kInt8, WeightsMode::kInt4}) {
    EXPECT_EQ(kept_format(Weight::kO, SourceFormat::kQ4K, mode), PackedFormat::kInt4Affine);
    EXPECT_EQ(kept_format(Weight::kHead, SourceFormat::kQ6K, mode), PackedFormat::kInt8Halves);
    EXPECT_EQ(kept_format(Weight::kEmbedding, SourceFormat::kMlx8, mode),
              PackedFormat::kInt8Affine);
  }
  EXPECT_EQ(kept_format(Weight::kO, SourceFormat::kQ8_0, WeightsMode::kInt8),
            PackedFormat::kInt8Affine);
  EXPECT_EQ(kept_format(Weight::kO, SourceFormat::kQ8_0, WeightsMode::kInt4), PackedFormat::kInt4);
}

TEST(WeightsMode, CutOrTurnedGroupsAreNotKept) {
  const MatrixPart whole{{SourceFormat::kQ8_0, 4, 64, {}, {}}, {0, 4}, {0, 64}, false};
  EXPECT_EQ(kept_format(Weight::kO, whole, WeightsMode::kNative), PackedFormat::kInt8Affine);
  MatrixPart cut = whole;
  cut.cols = {16, 64};
  EXPECT_EQ(kept_format(Weight::kO, cut, WeightsMode::kNative), PackedFormat::kF32);
  EXPECT_EQ(kept_format(Weight::kO, cut, WeightsMode::kInt8), PackedFormat::kInt8);
  MatrixPart turned = whole;
  turned.transposed = true;
  EXPECT_EQ(kept_format(Weight::kKvB, turned, WeightsMode::kNative), PackedFormat::kF32);
  turned.matrix.format = SourceFormat::kBF16;
  EXPECT_EQ(kept_format(Weight::kKvB, turned, WeightsMode::kNative), PackedFormat::kBF16);
}

// Two heads of 3 + 2 rows over a latent of 8.
TEST(WeightsMode, APartOfASplitKvBIsAPartOfOneHalf) {
  kernels::HeadMatrices heads{2, 3, 2, {SourceFormat::kBF16, 16, 3, {}, {}}, {}};
  heads.value_up.format = SourceFormat::kF16;
  kernels::SourceMatrix matrix{SourceFormat::kHeads, 10, 8, {}, {}};
  matrix.heads = &heads;
  const auto keys = stored_part({matrix, {5, 8}, {0, 8}, true});
  ASSERT_TRUE(keys);
  EXPECT_EQ(keys->matrix.format, SourceFormat::kBF16);
  EXPECT_EQ(keys->rows, (Range{8, 16}));
  EXPECT_EQ(keys->cols, (Range{0, 3}));
  EXPECT_FALSE(keys->transposed);
  const auto values = stored_part({matrix, {3, 5}, {0, 8}, false});
  ASSERT_TRUE(values);
  EXPECT_EQ(values->matrix.format, SourceFormat::kF16);
  EXPECT_EQ(values->rows, (Range{0, 2}));
  EXPECT_FALSE(stored_part({matrix, {0, 3}, {0, 8}, false}));  // keys, not turned
  EXPECT_FALSE(stored_part({matrix, {3, 5}, {0, 8}, true}));
  EXPECT_FALSE(stored_part({matrix, {2, 4}, {0, 8}, false}));    // of both halves
  EXPECT_FALSE(stored_part({matrix, {10, 12}, {0, 8}, false}));  // beyond the heads
}

}  // namespace
}  // namespace conclave::model
