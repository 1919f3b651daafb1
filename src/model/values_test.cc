#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

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
