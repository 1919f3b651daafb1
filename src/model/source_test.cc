#include <cmath>
#include <utility>

#include "base/number_formats.h"
#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

using Kind = TestCheckpoint::Kind;
using kernels::SourceFormat;

class ModelSourceTest : public CheckpointDirTest {};

std::string bytes_of(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

constexpr const char* kUp = "model.layers.2.mlp.experts.3.up_proj";

TEST_F(ModelSourceTest, Bf16MatricesAreTheFilesBytes) {
  TestCheckpoint checkpoint(Kind::kBf16);
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  const auto up = source->matrix(LayerId{2}, Weight::kExpertUp, ExpertId{3});
  EXPECT_EQ(up.format, SourceFormat::kBF16);
  EXPECT_EQ(up.rows, 32u);
  EXPECT_EQ(up.cols, 64u);
  EXPECT_EQ(bytes_of(up.weights), checkpoint.at(std::string(kUp) + ".weight").bytes);
  const auto head = source->matrix({}, Weight::kHead);
  EXPECT_EQ(bytes_of(head.weights), checkpoint.at("lm_head.weight").bytes);
  const auto down = source->matrix(LayerId{0}, Weight::kDown);
  EXPECT_EQ(bytes_of(down.weights), checkpoint.at("model.layers.0.mlp.down_proj.weight").bytes);
  EXPECT_TRUE(source->ignored_tensors().empty());
  std::uint64_t total = 0;
  for (const TestTensor& tensor : checkpoint.tensors) total += tensor.bytes.size();
  EXPECT_EQ(source->file_bytes(), total);
}

TEST_F(ModelSourceTest, NormsAndBiasesAreExact) {
  TestCheckpoint checkpoint(Kind::kBf16);
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  const std::vector<float> norm = source->norm(LayerId{1}, Norm::kKvA);
  ASSERT_EQ(norm.size(), 48u);
  std::uint16_t bits = 0;
  std::memcpy(&bits, checkpoint.at("model.layers.1.self_attn.kv_a_layernorm.weight").bytes.data(),
              sizeof bits);
  EXPECT_EQ(norm[0], bf16_to_float(bits));
  EXPECT_EQ(source->norm({}, Norm::kFinal).size(), 64u);
  EXPECT_EQ(source->router_bias(LayerId{1}), (std::vector<float>{0.5f, 1.0f, -1.0f, 0.0f}));
}

TEST_F(ModelSourceTest, Int4ExpertsCarryTheirScales) {
  TestCheckpoint checkpoint(Kind::kInt4Experts);
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  const auto up = source->matrix(LayerId{2}, Weight::kExpertUp, ExpertId{3});
  EXPECT_EQ(up.format, SourceFormat::kInt4Group);
  EXPECT_EQ(bytes_of(up.weights), checkpoint.at(std::string(kUp) + ".weight_packed").bytes);
  EXPECT_EQ(bytes_of(up.scales), checkpoint.at(std::string(kUp) + ".weight_scale").bytes);
  EXPECT_EQ(source->matrix(LayerId{2}, Weight::kSharedUp).format, SourceFormat::kBF16);
  EXPECT_EQ(source->label(LayerId{2}, Weight::kExpertUp, ExpertId{3}),
            std::string("model.safetensors: ") + kUp);
  EXPECT_TRUE(source->check(LayerId{2}, Weight::kExpertUp, ExpertId{3}, {0, up.rows}));
  source->drop(up, {3, 20});
  EXPECT_EQ(bytes_of(up.scales), checkpoint.at(std::string(kUp) + ".weight_scale").bytes);
}

TEST_F(ModelSourceTest, HasSaysWhichMatricesThereAre) {
  const auto source = open(TestCheckpoint(Kind::kBf16));
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_TRUE(source->has(LayerId{2}, Weight::kExpertUp, ExpertId{3}));
  EXPECT_FALSE(source->has(LayerId{2}, Weight::kExpertUp, ExpertId{4}));
  EXPECT_FALSE(source->has(LayerId{0}, Weight::kExpertUp, ExpertId{0}));
  EXPECT_FALSE(source->has(LayerId{3}, Weight::kO));
  EXPECT_TRUE(source->has(LayerId{0}, Weight::kQB));
  EXPECT_FALSE(source->has(LayerId{0}, Weight::kQ));
  EXPECT_TRUE(source->has(LayerId{9}, Weight::kHead));
}

TEST_F(ModelSourceTest, WeightShapeMayBe64Bit) {
  TestCheckpoint checkpoint(Kind::kInt4Experts);
  TestTensor& shape = checkpoint.at(std::string(kUp) + ".weight_shape");
  const std::int64_t values[2] = {32, 64};
  shape.dtype = "I64";
  shape.bytes.assign(reinterpret_cast<const char*>(values), sizeof values);
  EXPECT_EQ(error_of(checkpoint), "opened");
  shape.bytes[8] = 65;
  EXPECT_EQ(error_of(checkpoint), std::string("model.safetensors: ") + kUp +
                                      ".weight_shape: says [32, 65], expected [32, 64]");
}

TEST_F(ModelSourceTest, Fp8LinearsCarryBlockScales) {
  TestCheckpoint checkpoint(Kind::kFp8);
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  const auto kv_b = source->matrix(LayerId{0}, Weight::kKvB);
  EXPECT_EQ(kv_b.format, SourceFormat::kFp8Block);
  EXPECT_EQ(kv_b.scales.size(), 4u);
  EXPECT_EQ(source->matrix(LayerId{1}, Weight::kRouter).format, SourceFormat::kBF16);
  EXPECT_EQ(source->matrix({}, Weight::kHead).format, SourceFormat::kBF16);
}

TEST_F(ModelSourceTest, FusedExpertsAreSlices) {
  TestCheckpoint checkpoint(Kind::kFused);
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  const std::string& gate_up = checkpoint.at("model.layers.1.mlp.experts.gate_up_proj").bytes;
  const std::string& down = checkpoint.at("model.layers.1.mlp.experts.down_proj").bytes;
  const std::size_t part = 32 * 64 * 2;
  const auto matrix = [&source](Weight weight) {
    return bytes_of(source->matrix(LayerId{1}, weight, ExpertId{2}).weights);
  };
  EXPECT_EQ(matrix(Weight::kExpertGate), gate_up.substr(4 * part, part));
  EXPECT_EQ(matrix(Weight::kExpertUp), gate_up.substr(5 * part, part));
  EXPECT_EQ(matrix(Weight::kExpertDown), down.substr(2 * part, part));
  EXPECT_EQ(source->matrix(LayerId{1}, Weight::kExpertDown, ExpertId{2}).rows, 64u);
}

TEST_F(ModelSourceTest, K25HasAPrefixAndVisionTensors) {
  TestCheckpoint checkpoint(Kind::kInt4Experts, "language_model.");
  checkpoint.plain("vision_tower.encoder.blocks.0.wo.weight", {4, 4});
  checkpoint.plain("mm_projector.proj.0.bias", {4});
  const nlohmann::json text = checkpoint.config;
  checkpoint.config = {{"architectures", {"KimiK25ForConditionalGeneration"}},
                       {"model_type", "kimi_k25"},
                       {"text_config", text}};
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->config().architecture, "KimiK25ForConditionalGeneration");
  EXPECT_EQ(source->ignored_tensors(),
            (std::vector<std::string>{"mm_projector.proj.0.bias",
                                      "vision_tower.encoder.blocks.0.wo.weight"}));
  EXPECT_EQ(source->matrix({}, Weight::kHead).rows, 64u);
}

TEST_F(ModelSourceTest, VisionAndPrefixBelongToK25Alone) {
  TestCheckpoint vision(Kind::kBf16);
  vision.plain("vision_tower.x", {4});
  EXPECT_NE(error_of(vision).find("model.safetensors: vision_tower.x: BF16 [4] is not a tensor of"),
            std::string::npos);
  EXPECT_EQ(error_of(TestCheckpoint(Kind::kBf16, "language_model.")),
            "model.safetensors: model.embed_tokens.weight: missing, expected BF16, F16 or F32 "
            "[64, 64]");
}

TEST_F(ModelSourceTest, MtpLayersAreSkippedWhereTheConfigSaysSo) {
  TestCheckpoint checkpoint(Kind::kBf16);
  checkpoint.plain("model.layers.3.eh_proj.weight", {64, 128});
  checkpoint.plain("model.layers.3.mlp.gate.weight", {4, 64});
  EXPECT_NE(error_of(checkpoint).find("model.layers.3.eh_proj.weight"), std::string::npos);
  checkpoint.config["num_nextn_predict_layers"] = 1;
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->ignored_tensors().size(), 2u);
  checkpoint.plain("model.layers.30.eh_proj.weight", {64, 128});
  EXPECT_NE(error_of(checkpoint).find("(unexpected tensors: 1)"), std::string::npos);
}

TEST_F(ModelSourceTest, InvFreqIsSkipped) {
  TestCheckpoint checkpoint(Kind::kBf16);
  checkpoint.plain("model.layers.2.self_attn.rotary_emb.inv_freq", {4});
  EXPECT_EQ(error_of(checkpoint), "opened");
}

TEST_F(ModelSourceTest, ATiedHeadIsTheEmbedding) {
  TestCheckpoint checkpoint(Kind::kBf16);
  checkpoint.config["tie_word_embeddings"] = true;
  EXPECT_NE(error_of(checkpoint).find("lm_head.weight: BF16 [64, 64] is not a tensor of"),
            std::string::npos);
  checkpoint.remove("lm_head.weight");
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->matrix({}, Weight::kHead).weights.data(),
            source->matrix({}, Weight::kEmbedding).weights.data());
}

TEST_F(ModelSourceTest, NestedConfigsTieOnlyAHeadThatIsAbsent) {
  for (const bool at_the_top : {true, false}) {
    TestCheckpoint checkpoint(Kind::kBf16, "language_model.");
    nlohmann::json text = checkpoint.config;
    text["tie_word_embeddings"] = !at_the_top;
    checkpoint.config = {{"architectures", {"KimiK25ForConditionalGeneration"}},
                         {"model_type", "kimi_k25"},
                         {"tie_word_embeddings", at_the_top},
                         {"text_config", text}};
    const auto own = open(checkpoint);
    ASSERT_TRUE(own) << own.error().message;
    EXPECT_EQ(bytes_of(own->matrix({}, Weight::kHead).weights),
              checkpoint.at("language_model.lm_head.weight").bytes);
    checkpoint.remove("language_model.lm_head.weight");
    const auto tied = open(checkpoint);
    ASSERT_TRUE(tied) << tied.error().message;
    EXPECT_EQ(tied->matrix({}, Weight::kHead).weights.data(),
              tied->matrix({}, Weight::kEmbedding).weights.data());
    checkpoint.config["tie_word_embeddings"] = false;
    checkpoint.config["text_config"]["tie_word_embeddings"] = false;
    EXPECT_NE(error_of(checkpoint).find("language_model.lm_head.weight: missing"),
              std::string::npos);
  }
}

TEST_F(ModelSourceTest, AModelMayHaveNoSharedExperts) {
  TestCheckpoint checkpoint(Kind::kBf16);
  checkpoint.config["n_shared_experts"] = nullptr;
  EXPECT_NE(error_of(checkpoint).find("mlp.shared_experts.down_proj.weight"), std::string::npos);
  std::erase_if(checkpoint.tensors, [](const TestTensor& tensor) {
    return tensor.name.find("shared_experts") != std::string::npos;
  });
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(Slice::whole(source->config()).shared_columns, (Range{0, 0}));
}

TEST_F(ModelSourceTest, DeepseekV2LiteHasOneQueryMatrixAndNoBias) {
  TestCheckpoint checkpoint(Kind::kBf16);
  checkpoint.config.update({{"architectures", {"DeepseekV2ForCausalLM"}},
                            {"model_type", "deepseek_v2"},
                            {"topk_method", "greedy"},
                            {"scoring_func", "softmax"},
                            {"norm_topk_prob", false},
                            {"q_lora_rank", nullptr}});
  for (int layer = 0; layer < 3; ++layer) {
    const std::string at = "model.layers." + std::to_string(layer) + ".";
    for (const char* name : {"self_attn.q_a_proj.weight", "self_attn.q_a_layernorm.weight",
                             "self_attn.q_b_proj.weight"}) {
      checkpoint.remove(at + name);
    }
    checkpoint.plain(at + "self_attn.q_proj.weight", {48, 64});
    if (layer > 0) checkpoint.remove(at + "mlp.gate.e_score_correction_bias");
  }
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->matrix(LayerId{1}, Weight::kQ).rows, 48u);
  EXPECT_EQ(source->router_bias(LayerId{1}), std::vector<float>(4, 0.0f));
}

TEST_F(ModelSourceTest, FingerprintFollowsConfigTableAndTraining) {
  TestCheckpoint checkpoint(Kind::kBf16);
  const std::uint64_t first = open(checkpoint)->fingerprint();
  EXPECT_EQ(open(checkpoint)->fingerprint(), first);
  TestCheckpoint retrained = checkpoint;
  retrained.at("model.layers.2.input_layernorm.weight").bytes[0] ^= 1;
  EXPECT_NE(open(retrained)->fingerprint(), first);
  TestCheckpoint other_weights = checkpoint;
  other_weights.at("model.layers.2.mlp.experts.3.up_proj.weight").bytes[63] ^= 1;
  EXPECT_NE(open(other_weights)->fingerprint(), first);
  TestCheckpoint other_config = checkpoint;
  other_config.config["rms_norm_eps"] = 1e-6;
  EXPECT_NE(open(other_config)->fingerprint(), first);
}

TEST_F(ModelSourceTest, AMissingConfigIsNamed) {
  EXPECT_NE(ModelSource::open(dir_).error().message.find("config.json"), std::string::npos);
}

}  // namespace
}  // namespace conclave::model
