#include <gtest/gtest.h>

#include "model/names.h"
#include "model/shapes.h"
#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

ModelConfig kimi() {
  ModelConfig config;
  config.vocab_size = 163840;
  config.hidden_size = 7168;
  config.n_layers = 61;
  config.n_dense_layers = 1;
  config.intermediate_size = 18432;
  config.moe_intermediate_size = 2048;
  config.n_experts = 384;
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

TEST(Slice, TheWholeIsEveryMatrixWhole) {
  const ModelConfig config = kimi();
  const Slice whole = Slice::whole(config);
  for (std::size_t i = 0; i < kWeights; ++i) {
    const auto weight = static_cast<Weight>(i);
    const MatrixShape shape = shape_of(config, weight);
    const MatrixSlice slice = slice_of(config, whole, weight);
    EXPECT_EQ(slice.rows, (Range{0, shape.rows})) << i;
    EXPECT_EQ(slice.cols, (Range{0, shape.cols})) << i;
  }
}

TEST(Slice, HeadsColumnsAndVocabularyAreCut) {
  const ModelConfig config = kimi();
  Slice slice = Slice::whole(config);
  slice.heads = {16, 24};
  slice.expert_columns = {64, 96};
  slice.shared_columns = {0, 0};
  slice.dense_columns = {18400, 18432};
  slice.vocab = {32, 64};
  slice.embedding = false;
  EXPECT_EQ(slice_of(config, slice, Weight::kQB).rows, (Range{16 * 192, 24 * 192}));
  EXPECT_EQ(slice_of(config, slice, Weight::kQB).cols, (Range{0, 1536}));
  EXPECT_EQ(slice_of(config, slice, Weight::kKvB).rows, (Range{16 * 256, 24 * 256}));
  EXPECT_EQ(slice_of(config, slice, Weight::kO).rows, (Range{0, 7168}));
  EXPECT_EQ(slice_of(config, slice, Weight::kO).cols, (Range{16 * 128, 24 * 128}));
  EXPECT_EQ(slice_of(config, slice, Weight::kExpertUp).rows, (Range{64, 96}));
  EXPECT_EQ(slice_of(config, slice, Weight::kExpertDown).cols, (Range{64, 96}));
  EXPECT_EQ(slice_of(config, slice, Weight::kSharedGate).rows.size(), 0u);
  EXPECT_EQ(slice_of(config, slice, Weight::kDown).cols, (Range{18400, 18432}));
  EXPECT_EQ(slice_of(config, slice, Weight::kHead).rows, (Range{32, 64}));
  EXPECT_EQ(slice_of(config, slice, Weight::kEmbedding).rows.size(), 0u);
  EXPECT_EQ(slice_of(config, slice, Weight::kQA).rows, (Range{0, 1536}));
  EXPECT_EQ(slice_of(config, slice, Weight::kKvA).rows, (Range{0, 576}));
  EXPECT_EQ(slice_of(config, slice, Weight::kRouter).rows, (Range{0, 384}));
}

TEST(Slice, CheckingNamesTheRangeThatDoesNotFit) {
  const ModelConfig config = kimi();
  EXPECT_TRUE(check_slice(config, Slice::whole(config)));
  EXPECT_TRUE(check_slice(config, Slice{}));
  const auto error = [&config](auto change) {
    Slice slice = Slice::whole(config);
    change(slice);
    const auto checked = check_slice(config, slice);
    return checked ? "fits" : checked.error().message;
  };
  EXPECT_EQ(error([](Slice& s) {
              s.heads = {60, 65};
            }),
            "slice: heads [60, 65), expected a part of 64 in units of 1");
  EXPECT_NE(error([](Slice& s) { s.heads = {5, 4}; }).find("heads"), std::string::npos);
  EXPECT_NE(error([](Slice& s) {
              s.expert_columns = {0, 48};
            }).find("expert columns"),
            std::string::npos);
  EXPECT_NE(error([](Slice& s) { s.shared_columns = {16, 32}; }).find("shared"), std::string::npos);
  const auto copies = [&error](std::vector<LayerExpert> replicas) {
    return error([&](Slice& s) {
      s.experts = {0, 4};
      s.replicas = std::move(replicas);
    });
  };
  EXPECT_EQ(copies({{LayerId{5}, ExpertId{4}}, {LayerId{5}, ExpertId{9}}}), "fits");
  const auto at_fault = [&](std::vector<LayerExpert> replicas) {
    return copies(std::move(replicas)).find("replicas") != std::string::npos;
  };
  EXPECT_TRUE(at_fault({{LayerId{5}, ExpertId{9}}, {LayerId{5}, ExpertId{4}}})) << "descending";
  EXPECT_TRUE(at_fault({{LayerId{5}, ExpertId{9}}, {LayerId{5}, ExpertId{9}}})) << "twice";
  EXPECT_TRUE(at_fault({{LayerId{5}, ExpertId{3}}})) << "its own";
  EXPECT_TRUE(at_fault({{LayerId{0}, ExpertId{9}}})) << "a dense layer";
  EXPECT_TRUE(at_fault({{LayerId{999}, ExpertId{9}}}));
  EXPECT_TRUE(at_fault({{LayerId{5}, ExpertId{9999}}}));
  EXPECT_NE(error([](Slice& s) { s.dense_columns.end += 32; }).find("dense"), std::string::npos);
  EXPECT_NE(error([](Slice& s) { s.vocab.begin = 1; }).find("vocabulary"), std::string::npos);
}

TEST(SliceDeathTest, AHalfUnitIsABug) {
  const ModelConfig config = kimi();
  Slice slice = Slice::whole(config);
  slice.expert_columns = {0, 48};
  EXPECT_DEATH(slice_of(config, slice, Weight::kExpertUp), "CHECK failed");
}

}  // namespace
}  // namespace conclave::model
