#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <vector>

#include "model/table.h"

namespace conclave::model {
namespace {

using formats::DType;
using formats::Tensor;

class ValuesTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(testing::TempDir()) / "values_test";
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  MappedFile file(const char* name) const {
    std::ofstream(dir_ / name) << "x";
    return MappedFile::open(dir_ / name).value();
  }

  std::filesystem::path dir_;
};

TEST_F(ValuesTest, LabelsNameBothFilesOfASplitMatrix) {
  const MappedFile one = file("one.safetensors");
  const MappedFile two = file("two.safetensors");
  const Tensor weights{"a.b.weight_packed", DType::kI32, {2, 4}, {}, &one};
  const Tensor scales{"a.b.weight_scale", DType::kBF16, {2, 1}, {}, &two};
  Linear linear{&weights, &scales, nullptr, {kernels::SourceFormat::kInt4Group, 2, 32, {}, {}}};
  EXPECT_EQ(label_of(linear), "one.safetensors and two.safetensors: a.b");
  EXPECT_EQ(label_of(scales), "two.safetensors: a.b.weight_scale");
  const Tensor plain{"a.b.weight", DType::kBF16, {2, 32}, {}, &one};
  EXPECT_EQ(label_of(Linear{&plain, nullptr, nullptr, {}}), "one.safetensors: a.b.weight");
}

TEST_F(ValuesTest, OnlyTheRowsAskedForAreChecked) {
  const MappedFile one = file("one.safetensors");
  std::vector<std::uint16_t> values(10 * 8, 0x3f80);
  values[6 * 8 + 5] = 0x7f80;
  const Tensor tensor{"a.weight", DType::kBF16, {10, 8}, std::as_bytes(std::span(values)), &one};
  const Linear linear{
      &tensor, nullptr, nullptr, {kernels::SourceFormat::kBF16, 10, 8, tensor.bytes, {}}};
  EXPECT_TRUE(check_values(linear, {0, 6}));
  EXPECT_TRUE(check_values(linear, {7, 10}));
  EXPECT_TRUE(check_values(linear, {6, 6}));
  EXPECT_EQ(check_values(linear, {6, 7}).error().message,
            "one.safetensors: a.weight: [6, 5] is NaN or infinite, expected a finite number");
  EXPECT_FALSE(check_values(linear));
}

TEST_F(ValuesTest, RowsOfFp8AreCheckedInWholeBlocks) {
  const MappedFile one = file("one.safetensors");
  std::vector<std::uint8_t> codes(300 * 200, 0x38);
  std::vector<float> scales(3 * 2, 1.0f);
  const Tensor weights{
      "a.weight", DType::kF8E4M3, {300, 200}, std::as_bytes(std::span(codes)), &one};
  const Tensor inverse{
      "a.weight_scale_inv", DType::kF32, {3, 2}, std::as_bytes(std::span(scales)), &one};
  const Linear linear{&weights,
                      &inverse,
                      nullptr,
                      {kernels::SourceFormat::kFp8Block, 300, 200, weights.bytes, inverse.bytes}};
  const RowBand band = row_band(linear.matrix, {130, 131});
  EXPECT_EQ(band.first_row, 128u);
  EXPECT_EQ(band.matrix.rows, 128u);
  EXPECT_EQ(band.matrix.scales.data(), inverse.bytes.data() + 2 * sizeof(float));
  EXPECT_EQ(band.matrix.scales.size(), 2 * sizeof(float));
  EXPECT_EQ(row_band(linear.matrix, {290, 300}).matrix.rows, 300u - 256u);
  codes[299 * 200 + 7] = 0x7f;
  EXPECT_TRUE(check_values(linear, {0, 256}));
  EXPECT_EQ(check_values(linear, {256, 260}).error().message,
            "one.safetensors: a.weight: [299, 7] is NaN or infinite, expected a finite number");
  scales[3] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(check_values(linear, {0, 128}));
  EXPECT_EQ(
      check_values(linear, {129, 130}).error().message,
      "one.safetensors: a.weight_scale_inv: [1, 1] is NaN or infinite, expected a finite number");
}

TEST_F(ValuesTest, VectorsOfEveryFloatTypeAreExact) {
  const MappedFile one = file("one.safetensors");
  const std::uint16_t bf16[] = {0x3fc0, 0xc000};
  const std::uint16_t f16[] = {0x3e00, 0xc000};
  const float f32[] = {1.5f, -2.0f};
  const std::vector<float> expected = {1.5f, -2.0f};
  EXPECT_EQ(*read_vector({"n", DType::kBF16, {2}, std::as_bytes(std::span(bf16)), &one}), expected);
  EXPECT_EQ(*read_vector({"n", DType::kF16, {2}, std::as_bytes(std::span(f16)), &one}), expected);
  EXPECT_EQ(*read_vector({"n", DType::kF32, {2}, std::as_bytes(std::span(f32)), &one}), expected);
  const std::uint16_t bad[] = {0x3fc0, 0x7c01};
  EXPECT_EQ(
      read_vector({"n", DType::kF16, {2}, std::as_bytes(std::span(bad)), &one}).error().message,
      "one.safetensors: n: [1] is NaN or infinite, expected a finite number");
}

}  // namespace
}  // namespace conclave::model
