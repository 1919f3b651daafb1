#include "model/table.h"

#include "model/test_checkpoint.h"

namespace conclave::model {
namespace {

using Kind = TestCheckpoint::Kind;

class TableTest : public CheckpointDirTest {};

constexpr const char* kExpert = "model.layers.1.mlp.experts.2.down_proj";

std::string at_expert(const char* suffix) { return std::string(kExpert) + suffix; }

TEST_F(TableTest, NamesFoundAndExpectedShape) {
  TestCheckpoint checkpoint(Kind::kBf16);
  TestTensor& gate = checkpoint.at("model.layers.1.mlp.gate.weight");
  gate.shape = {4, 63};
  gate.bytes.resize(4 * 63 * 2);
  EXPECT_EQ(error_of(checkpoint),
            "model.safetensors: model.layers.1.mlp.gate.weight: shape [4, 63], expected [4, 64]");
}

TEST_F(TableTest, NamesFoundAndExpectedType) {
  TestCheckpoint checkpoint(Kind::kBf16);
  checkpoint.at("model.norm.weight").dtype = "I16";
  EXPECT_EQ(error_of(checkpoint),
            "model.safetensors: model.norm.weight: type I16, expected BF16, F16 or F32");
}

// Whichever tensor is missing, renamed, transposed or of another type: never an opened model.
TEST_F(TableTest, EveryTensorMatters) {
  for (const Kind kind : {Kind::kBf16, Kind::kInt4Experts, Kind::kFp8, Kind::kFused}) {
    const TestCheckpoint good(kind);
    ASSERT_EQ(error_of(good), "opened");
    for (std::size_t i = 0; i < good.tensors.size(); i += 13) {
      const std::string name = good.tensors[i].name;
      TestCheckpoint missing = good;
      missing.remove(name);
      const std::string message = error_of(missing);
      if (name.ends_with(".weight_shape")) {
        EXPECT_EQ(message, "opened") << name;  // says nothing that config.json does not
      } else {
        EXPECT_NE(message.find(name.substr(0, name.rfind('.'))), std::string::npos) << message;
      }

      TestCheckpoint renamed = good;
      renamed.tensors[i].name += 'x';
      EXPECT_NE(error_of(renamed), "opened") << name;

      TestCheckpoint reshaped = good;
      reshaped.tensors[i].shape.push_back(1);
      EXPECT_NE(error_of(reshaped).find("expected ["), std::string::npos) << name;

      TestCheckpoint retyped = good;
      const bool bytes = good.tensors[i].dtype == "F8_E4M3";
      const bool halves = good.tensors[i].dtype == "BF16";
      retyped.tensors[i].dtype = bytes ? "I8" : halves ? "I16" : "U32";
      EXPECT_NE(error_of(retyped).find(", expected "), std::string::npos) << name;
    }
  }
}

TEST_F(TableTest, UnexpectedTensorsAreNamedAndCounted) {
  TestCheckpoint checkpoint(Kind::kBf16);
  checkpoint.plain("model.layers.0.self_attn.q_b_proj.bias", {48});
  checkpoint.plain("model.layers.0.self_attn.o_proj.bias", {64});
  EXPECT_EQ(error_of(checkpoint),
            "model.safetensors: model.layers.0.self_attn.o_proj.bias: BF16 [64] is not a tensor of "
            "DeepseekV3ForCausalLM with this config.json (unexpected tensors: 2)");
}

TEST_F(TableTest, QuantizedTensorsNeedAQuantizationConfig) {
  TestCheckpoint int4(Kind::kInt4Experts);
  int4.config.erase("quantization_config");
  EXPECT_NE(error_of(int4).find("no compressed-tensors quantization_config"), std::string::npos);
  TestCheckpoint fp8(Kind::kFp8);
  fp8.config["quantization_config"] = int4_quantization();
  EXPECT_NE(error_of(fp8).find("no fp8 quantization_config"), std::string::npos);
}

TEST_F(TableTest, LeftOverScalesAreAnError) {
  TestCheckpoint checkpoint(Kind::kBf16);
  checkpoint.plain(at_expert(".weight_scale_inv"), {1, 1});
  EXPECT_NE(error_of(checkpoint).find("weight_scale_inv: BF16 [1, 1] is not a tensor"),
            std::string::npos);
}

TEST_F(TableTest, BothFusedAndSingleExpertsAreAnError) {
  TestCheckpoint checkpoint(Kind::kFused);
  checkpoint.plain("model.layers.1.mlp.experts.0.up_proj.weight", {32, 64});
  EXPECT_NE(error_of(checkpoint).find("experts.0.up_proj.weight"), std::string::npos);
}

TEST_F(TableTest, BadValuesAreFoundAtOpen) {
  TestCheckpoint scale(Kind::kInt4Experts);
  scale.at(at_expert(".weight_scale")).bytes.replace(2 * 3, 2, TestCheckpoint::bf16(NAN));
  EXPECT_EQ(error_of(scale), "model.safetensors: " + at_expert(".weight_scale") +
                                 ": [3, 0] is NaN or infinite, expected a finite number");

  TestCheckpoint code(Kind::kFp8);
  code.at(at_expert(".weight")).bytes[33] = '\xff';
  EXPECT_EQ(error_of(code), "model.safetensors: " + at_expert(".weight") +
                                ": [1, 1] is NaN or infinite, expected a finite number");

  TestCheckpoint inverse(Kind::kFp8);
  inverse.at(at_expert(".weight_scale_inv")).bytes = TestCheckpoint::f32(INFINITY);
  EXPECT_NE(error_of(inverse).find(".weight_scale_inv: [0, 0] is NaN"), std::string::npos);

  TestCheckpoint norm(Kind::kBf16);
  norm.at("model.norm.weight").bytes.replace(0, 2, TestCheckpoint::bf16(NAN));
  EXPECT_EQ(error_of(norm),
            "model.safetensors: model.norm.weight: [0] is NaN or infinite, expected a finite "
            "number");

  TestCheckpoint bias(Kind::kBf16);
  const std::string name = "model.layers.1.mlp.gate.e_score_correction_bias";
  bias.at(name).bytes.replace(12, 4, TestCheckpoint::f32(INFINITY));
  EXPECT_NE(error_of(bias).find(name + ": [3]"), std::string::npos);
}

TEST_F(TableTest, BadPlainWeightsAreFoundAtOpen) {
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight",
        "model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.experts.3.down_proj.weight"}) {
    TestCheckpoint checkpoint(Kind::kBf16);
    TestTensor& tensor = checkpoint.at(name);
    tensor.bytes.replace(2 * (tensor.shape[1] + 5), 2, TestCheckpoint::bf16(-HUGE_VAL));
    EXPECT_EQ(error_of(checkpoint), std::string("model.safetensors: ") + name +
                                        ": [1, 5] is NaN or infinite, expected a finite number");
  }
  TestCheckpoint fused(Kind::kFused);
  const std::string name = "model.layers.1.mlp.experts.gate_up_proj";
  fused.at(name).bytes.replace(2 * (2 * 64 * 64 + 33 * 64 + 7), 2, TestCheckpoint::bf16(NAN));
  EXPECT_EQ(error_of(fused), "model.safetensors: " + name +
                                 ": [2, 33, 7] is NaN or infinite, expected a finite number");
}

TEST_F(TableTest, ABiasMayBeF16) {
  TestCheckpoint checkpoint(Kind::kBf16);
  TestTensor& bias = checkpoint.at("model.layers.1.mlp.gate.e_score_correction_bias");
  bias.dtype = "F16";
  bias.bytes = std::string("\x00\x3c\x00\x40\x00\xbc\x00\x00", 8);
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->router_bias(LayerId{1}), (std::vector<float>{1, 2, -1, 0}));
}

TEST_F(TableTest, ABiasMayBeBf16) {
  TestCheckpoint checkpoint(Kind::kBf16);
  TestTensor& bias = checkpoint.at("model.layers.1.mlp.gate.e_score_correction_bias");
  bias.dtype = "BF16";
  bias.bytes = TestCheckpoint::bf16(1) + TestCheckpoint::bf16(2) + TestCheckpoint::bf16(3) +
               TestCheckpoint::bf16(4);
  const auto source = open(checkpoint);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->router_bias(LayerId{1}), (std::vector<float>{1, 2, 3, 4}));
}

TEST_F(TableTest, Int4NeedsWholeGroups) {
  TestCheckpoint checkpoint(Kind::kInt4Experts);
  checkpoint.config["moe_intermediate_size"] = 48;
  checkpoint.config["first_k_dense_replace"] = 1;
  for (TestTensor& tensor : checkpoint.tensors) {
    if (tensor.name.find("mlp.shared_experts") == std::string::npos) continue;
    for (std::size_t& size : tensor.shape) size = size == 32 ? 48 : size;
    tensor.bytes.resize(tensor.shape[0] * tensor.shape[1] * 2);
  }
  for (TestTensor& tensor : checkpoint.tensors) {
    const bool gate_or_up = tensor.name.find(".experts.") != std::string::npos &&
                            tensor.name.find("down_proj") == std::string::npos;
    if (!gate_or_up) continue;
    if (tensor.shape.size() == 1) {
      tensor.bytes[0] = 48;
    } else {
      tensor.bytes.resize(tensor.bytes.size() / 32 * 48);
      tensor.shape[0] = 48;
    }
  }
  EXPECT_EQ(error_of(checkpoint),
            "model.safetensors: model.layers.1.mlp.experts.0.down_proj.weight_packed: 48 "
            "inputs, expected a multiple of 32");
}

}  // namespace
}  // namespace conclave::model
