#include "model/matrices.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

using kernels::SourceFormat;

std::string text_of(std::size_t count, char byte) { return std::string(count, byte); }

std::vector<float> row_of(const Linear& linear, std::size_t row) {
  std::vector<float> values(linear.matrix.cols);
  kernels::dequantize_row(linear.matrix, row, 0, values);
  return values;
}

// A folder with just these tensors, and what takes them.
class MatricesTest : public CheckpointDirTest {
 protected:
  void add(const std::string& name, const std::string& dtype, std::vector<std::size_t> shape,
           char byte = '\x11') {
    std::size_t bytes = dtype == "U8" ? 1 : dtype == "BF16" || dtype == "F16" ? 2 : 4;
    for (const std::size_t size : shape) bytes *= size;
    checkpoint_.tensors.push_back({name, dtype, std::move(shape), text_of(bytes, byte)});
  }
  Result<Linear> take(MatrixShape shape, std::size_t stacked = 0) {
    checkpoint_.write(dir_);
    opened_ = std::make_unique<formats::Checkpoint>(formats::Checkpoint::open(dir_).value());
    tensors_ = std::make_unique<TensorTaker>(*opened_);
    description_.quantization = {method_, schemes_};
    return MatrixTaker(*tensors_, description_).take("m", shape, stacked);
  }
  void SetUp() override {
    CheckpointDirTest::SetUp();
    start_again();
  }
  void start_again() { checkpoint_.tensors.clear(); }

  TestCheckpoint checkpoint_{TestCheckpoint::Kind::kBf16};
  std::unique_ptr<formats::Checkpoint> opened_;
  std::unique_ptr<TensorTaker> tensors_;
  Description description_;
  QuantMethod method_ = QuantMethod::kMlx;
  std::vector<QuantScheme> schemes_ = {
      {3, 64, false}, {8, 32, false}, {4, 64, false}, {4, 32, false}};
};

TEST_F(MatricesTest, MlxSizesComeFromTheShapes) {
  add("m.weight", "U32", {6, 128 * 3 / 32});
  add("m.scales", "F16", {6, 2});
  add("m.biases", "F16", {6, 2});
  const auto linear = take({6, 128});
  ASSERT_TRUE(linear) << linear.error().message;
  EXPECT_EQ(linear->matrix.format, SourceFormat::kMlx4);
  EXPECT_EQ(linear->matrix.bits, 3u);
  EXPECT_EQ(linear->matrix.group, 64u);
  EXPECT_EQ(linear->matrix.scale_type, kernels::ScaleType::kF16);
  EXPECT_TRUE(check_values(*linear));
}

TEST_F(MatricesTest, MlxStacksAreCutIntoExperts) {
  add("m.weight", "U32", {3, 4, 8 * 8 / 8});
  add("m.scales", "BF16", {3, 4, 1});
  add("m.biases", "BF16", {3, 4, 1});
  const auto all = take({4, 32}, 3);
  ASSERT_TRUE(all) << all.error().message;
  EXPECT_EQ(all->matrix.rows, 12u);
  EXPECT_EQ(all->matrix.bits, 8u);
  const Linear second = part_of_stack(*all, 1, 4);
  EXPECT_EQ(second.matrix.rows, 4u);
  EXPECT_EQ(second.matrix.weights.data(), all->matrix.weights.data() + 4 * 32);
  EXPECT_EQ(second.matrix.offsets.data(), all->matrix.offsets.data() + 4 * 2);
}

TEST_F(MatricesTest, MlxWrongSizesAreNamed) {
  add("m.weight", "U32", {6, 128 * 7 / 32});
  add("m.scales", "BF16", {6, 2});
  add("m.biases", "BF16", {6, 2});
  EXPECT_EQ(take({6, 128}).error().message,
            "model.safetensors: m.weight: shape [6, 28] for 128 inputs, expected 2, 3, 4, 5, 6 or "
            "8 bits each");
  start_again();
  add("m.weight", "U32", {6, 16});
  add("m.scales", "BF16", {6, 8});
  add("m.biases", "BF16", {6, 8});
  EXPECT_NE(take({6, 128}).error().message.find("m.scales: shape [6, 8] for 128 inputs"),
            std::string::npos);
  start_again();
  add("m.weight", "U32", {6, 16});
  add("m.scales", "BF16", {6, 2});
  EXPECT_NE(take({6, 128}).error().message.find("m.biases: missing, expected BF16 [6, 2]"),
            std::string::npos);
}

TEST_F(MatricesTest, MlxMxfp4HasByteScales) {
  add("m.weight", "U32", {6, 8});
  add("m.scales", "U8", {6, 2}, '\x7f');
  const auto linear = take({6, 64});
  ASSERT_TRUE(linear) << linear.error().message;
  EXPECT_EQ(linear->matrix.format, SourceFormat::kMxfp4);
  const std::vector<float> row = row_of(*linear, 5);
  EXPECT_EQ(row, std::vector<float>(64, 0.5f));
}

TEST_F(MatricesTest, PackedWithZeroPoints) {
  method_ = QuantMethod::kInt4Group;
  schemes_ = {{8, 128, true}, {4, 128, true}};
  add("m.weight_packed", "I32", {9, 16}, '\x35');
  add("m.weight_scale", "F16", {9, 1}, '\x3c');
  add("m.weight_zero_point", "I32", {2, 1}, '\x44');
  const auto linear = take({9, 128});
  ASSERT_TRUE(linear) << linear.error().message;
  EXPECT_EQ(linear->matrix.format, SourceFormat::kPacked4);
  EXPECT_EQ(linear->matrix.group, 128u);
  const std::vector<float> row = row_of(*linear, 8);
  EXPECT_EQ(row[0], -row[1]);  // 5 - 4 and 3 - 4
  EXPECT_GT(row[0], 0.0f);
  EXPECT_TRUE(check_values(*linear));
}

TEST_F(MatricesTest, PackedInEightBitsHasItsZeroInTheMiddle) {
  method_ = QuantMethod::kInt4Group;
  schemes_ = {{8, 0, false}};
  add("m.weight_packed", "I32", {2, 8}, '\x81');
  add("m.weight_scale", "F32", {2, 1}, '\x40');
  const auto linear = take({2, 32});
  ASSERT_TRUE(linear) << linear.error().message;
  EXPECT_EQ(linear->matrix.format, SourceFormat::kPacked8);
  const std::vector<float> row = row_of(*linear, 0);
  float scale = 0.0f;
  std::memcpy(&scale, "\x40\x40\x40\x40", 4);
  EXPECT_EQ(row[0], scale);  // 129 - 128
}

// In kInt4 and kInt8 as they are, with one scale for each 32 of a wider group.
TEST_F(MatricesTest, PackedWithoutZeroPointsIsKeptInOurOwnForms) {
  method_ = QuantMethod::kInt4Group;
  schemes_ = {{4, 128, false}};
  add("m.weight_packed", "I32", {2, 16}, '\x9e');
  add("m.weight_scale", "BF16", {2, 1}, '\x3d');
  const auto linear = take({2, 128});
  ASSERT_TRUE(linear) << linear.error().message;
  const kernels::PackedFormat format = kernels::native_format(linear->matrix.format);
  EXPECT_EQ(format, kernels::PackedFormat::kInt4);
  std::vector<std::byte> panel(kernels::panel_bytes(format, 128, 0));
  kernels::pack_panel(linear->matrix, {0, 2}, {0, 128}, false, format, 0, panel);
  std::vector<float> kept(128);
  kernels::unpack_row({format, 2, 128, 0, panel}, 1, kept);
  EXPECT_EQ(kept, row_of(*linear, 1));
  EXPECT_GT(kept[0], 0.0f);
}

// Kimi's config says groups of 32: no others are taken for granted.
TEST_F(MatricesTest, SizesThatTheConfigDoesNotNameAreErrors) {
  method_ = QuantMethod::kInt4Group;
  schemes_ = {{4, 32, false}};
  add("m.weight_packed", "I32", {2, 16});
  add("m.weight_scale", "BF16", {2, 2});
  EXPECT_EQ(take({2, 128}).error().message,
            "model.safetensors: m.weight_scale: shape [2, 2], expected [2, 4]");
  start_again();
  method_ = QuantMethod::kMlx;
  schemes_ = {{4, 64, false}};
  add("m.weight", "U32", {2, 16});
  add("m.scales", "BF16", {2, 1});
  add("m.biases", "BF16", {2, 1});
  EXPECT_EQ(take({2, 128}).error().message,
            "model.safetensors: m.weight: 4 bits in groups of 128, which config.json says of no "
            "module");
}

TEST_F(MatricesTest, ZeroPointsThatTheConfigNamesMustBeThere) {
  add("m.weight_packed", "I32", {2, 16});
  add("m.weight_scale", "BF16", {2, 4}, '\x3d');
  method_ = QuantMethod::kInt4Group;
  schemes_ = {{4, 32, true}};
  EXPECT_EQ(take({2, 128}).error().message,
            "model.safetensors: m.weight_zero_point: missing, expected I32 [1, 4]");
}

TEST_F(MatricesTest, BadScalesAreNamed) {
  add("m.weight", "U32", {2, 4});
  add("m.scales", "BF16", {2, 1}, '\x7f');
  add("m.biases", "BF16", {2, 1});
  checkpoint_.tensors[1].bytes = std::string("\x80\x3f\x80\x7f", 4);
  const auto linear = take({2, 32});
  ASSERT_TRUE(linear) << linear.error().message;
  EXPECT_EQ(check_values(*linear).error().message,
            "model.safetensors: m.scales: [1, 0] is NaN, infinite or beyond 2^118, expected a "
            "number that keeps weights finite");
}

}  // namespace
}  // namespace conclave::model
