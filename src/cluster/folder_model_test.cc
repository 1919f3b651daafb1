#include "cluster/folder_model.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace conclave::cluster {
namespace {

constexpr const char* kEmber = "models/ember";

TEST(FolderModel, BytesComeFromTheTensors) {
  const auto native = read_folder_model(kEmber, model::WeightsMode::kNative);
  ASSERT_TRUE(native) << native.error().message;
  EXPECT_EQ(native->architecture.name, "ember");
  EXPECT_GT(native->architecture.n_experts, 0u);
  const auto source = model::ModelSource::open(kEmber);
  ASSERT_TRUE(source);
  double kept = 0.0;
  for (const auto& part : model::inspect(*source, model::WeightsMode::kNative).parts) {
    if (part.part != "norms") kept += static_cast<double>(part.kept_bytes);
  }
  EXPECT_NEAR(plan::stored_bytes(*native) / kept, 1.0, 0.01);
}

TEST(FolderModel, ConfigAloneIsEnough) {
  const auto full = read_folder_model(kEmber, model::WeightsMode::kInt8);
  ASSERT_TRUE(full) << full.error().message;
  const auto dir = std::filesystem::path(testing::TempDir()) / "plan-config-alone";
  std::filesystem::create_directories(dir);
  std::filesystem::copy_file(std::filesystem::path(kEmber) / "config.json", dir / "config.json",
                             std::filesystem::copy_options::overwrite_existing);
  const auto stated = read_folder_model(dir.string() + "/", model::WeightsMode::kInt8);
  std::filesystem::remove_all(dir);
  ASSERT_TRUE(stated) << stated.error().message;
  EXPECT_EQ(stated->architecture.name, "plan-config-alone");
  EXPECT_NEAR(plan::stored_bytes(*stated) / plan::stored_bytes(*full), 1.0, 0.05);
}

TEST(FolderModel, ErrorsNameTheFolder) {
  const auto missing = read_folder_model("no/such/folder", model::WeightsMode::kNative);
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message.find("no/such/folder"), std::string::npos);
}

}  // namespace
}  // namespace conclave::cluster
