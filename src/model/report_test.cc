#include "model/report.h"

#include "model/shapes.h"
#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

using kernels::SourceFormat;

const PartBytes* find(const ModelReport& report, std::string_view name) {
  for (const PartBytes& part : report.parts) {
    if (part.part == name) return &part;
  }
  return nullptr;
}

// Three true Kimi K2 layers with 96 experts: the shape that other engines were measured with.
ModelConfig three_kimi_layers() {
  ModelConfig config;
  config.vocab_size = 8192;
  config.hidden_size = 7168;
  config.n_layers = 3;
  config.intermediate_size = 18432;
  config.moe_intermediate_size = 2048;
  config.n_experts = 96;
  config.n_shared_experts = 1;
  config.experts_per_token = 8;
  config.n_heads = 64;
  config.q_lora_rank = 1536;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 128;
  return config;
}

ModelReport report_of(const ModelConfig& config, WeightsMode mode) {
  const auto matrix_of = [&config](LayerId, Weight weight, ExpertId) {
    const MatrixShape shape = shape_of(config, weight);
    const SourceFormat format = is_expert(weight) ? SourceFormat::kInt4Group : SourceFormat::kBF16;
    return kernels::SourceMatrix{format, shape.rows, shape.cols, {}, {}};
  };
  return report(config, matrix_of, {}, mode);
}

TEST(Report, BytesPerTokenOfThreeKimiLayers) {
  const ModelReport report = report_of(three_kimi_layers(), WeightsMode::kInt8);
  double rest = 0.0;
  for (const PartBytes& part : report.parts) {
    if (part.part != "routed experts") rest += static_cast<double>(part.read_per_token);
  }
  ASSERT_NE(find(report, "routed experts"), nullptr);
  EXPECT_NEAR(static_cast<double>(find(report, "routed experts")->read_per_token), 594.5e6, 0.1e6);
  EXPECT_NEAR(rest, 533.6e6, 0.1e6);
  EXPECT_EQ(find(report, "dense FFN"), nullptr);
  EXPECT_EQ(find(report, "attention")->format, "int8");
  EXPECT_EQ(find(report, "embedding")->read_per_token, 7168u * 2);
  EXPECT_EQ(report.kv_bytes_per_token, 2u * 576 * 3);
}

TEST(Report, FileBytesOfOneExpert) {
  const ModelReport report = report_of(three_kimi_layers(), WeightsMode::kNative);
  EXPECT_EQ(find(report, "routed experts")->file_bytes, 24'772'608ull * 96 * 3);
  EXPECT_EQ(find(report, "routed experts")->format, "int4");
  EXPECT_EQ(find(report, "attention")->file_bytes, 202'244'096ull * 3);
  EXPECT_EQ(find(report, "attention")->format, "bf16");
  EXPECT_EQ(find(report, "shared experts")->parameters, 44'040'192ull * 3);
}

class InspectTest : public CheckpointDirTest {};

TEST_F(InspectTest, CountsEveryByteOfThePlainFile) {
  const auto source = open(TestCheckpoint(TestCheckpoint::Kind::kBf16));
  ASSERT_TRUE(source) << source.error().message;
  std::uint64_t total = 0;
  for (const PartBytes& part : inspect(*source, WeightsMode::kNative).parts) {
    total += part.file_bytes;
  }
  EXPECT_EQ(total, source->file_bytes());
}

TEST_F(InspectTest, ATiedHeadIsNoSecondMatrix) {
  TestCheckpoint checkpoint(TestCheckpoint::Kind::kBf16);
  checkpoint.config["tie_word_embeddings"] = true;
  checkpoint.remove("lm_head.weight");
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  const ModelReport report = inspect(*source, WeightsMode::kNative);
  EXPECT_EQ(find(report, "head")->file_bytes, 0u);
  EXPECT_GT(find(report, "head")->kept_bytes, 0u);
}

}  // namespace
}  // namespace conclave::model
