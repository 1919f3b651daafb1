#include "apps/synth_tensors.h"

#include <gtest/gtest.h>

#include <map>

namespace conclave::apps {
namespace {

using formats::DType;
using Shape = std::vector<std::size_t>;

std::map<std::string, SynthTensor> table_of(const SynthRequest& request) {
  std::map<std::string, SynthTensor> table;
  for (SynthTensor& tensor : tensor_table(*synth_model(request))) {
    const std::string name = tensor.name;
    EXPECT_TRUE(table.emplace(name, std::move(tensor)).second) << name << " twice";
  }
  return table;
}

void expect_tensor(const std::map<std::string, SynthTensor>& table, const std::string& name,
                   const Shape& shape, DType dtype) {
  const auto found = table.find(name);
  ASSERT_NE(found, table.end()) << name;
  EXPECT_EQ(found->second.shape, shape) << name;
  EXPECT_EQ(found->second.dtype, dtype) << name;
}

std::uint64_t total_bytes(const std::map<std::string, SynthTensor>& table) {
  std::uint64_t total = 0;
  for (const auto& [name, tensor] : table) total += tensor.size_bytes();
  return total;
}

// docs/models.md 4.2, the listing of a real header.
TEST(TensorTable, KimiK2AsPublished) {
  SynthRequest request;
  request.like = "kimi-k2";
  const auto table = table_of(request);
  expect_tensor(table, "lm_head.weight", {163840, 7168}, DType::kBF16);
  expect_tensor(table, "model.embed_tokens.weight", {163840, 7168}, DType::kBF16);
  expect_tensor(table, "model.norm.weight", {7168}, DType::kBF16);
  const std::string last = "model.layers.60.";
  expect_tensor(table, last + "input_layernorm.weight", {7168}, DType::kBF16);
  expect_tensor(table, last + "post_attention_layernorm.weight", {7168}, DType::kBF16);
  expect_tensor(table, last + "self_attn.q_a_proj.weight", {1536, 7168}, DType::kBF16);
  expect_tensor(table, last + "self_attn.q_a_layernorm.weight", {1536}, DType::kBF16);
  expect_tensor(table, last + "self_attn.q_b_proj.weight", {12288, 1536}, DType::kBF16);
  expect_tensor(table, last + "self_attn.kv_a_proj_with_mqa.weight", {576, 7168}, DType::kBF16);
  expect_tensor(table, last + "self_attn.kv_a_layernorm.weight", {512}, DType::kBF16);
  expect_tensor(table, last + "self_attn.kv_b_proj.weight", {16384, 512}, DType::kBF16);
  expect_tensor(table, last + "self_attn.o_proj.weight", {7168, 8192}, DType::kBF16);
  expect_tensor(table, "model.layers.0.mlp.gate_proj.weight", {18432, 7168}, DType::kBF16);
  expect_tensor(table, "model.layers.0.mlp.down_proj.weight", {7168, 18432}, DType::kBF16);
  expect_tensor(table, last + "mlp.gate.weight", {384, 7168}, DType::kBF16);
  expect_tensor(table, last + "mlp.gate.e_score_correction_bias", {384}, DType::kF32);
  expect_tensor(table, last + "mlp.shared_experts.up_proj.weight", {2048, 7168}, DType::kBF16);
  expect_tensor(table, last + "mlp.shared_experts.down_proj.weight", {7168, 2048}, DType::kBF16);
  const std::string expert = last + "mlp.experts.383.";
  expect_tensor(table, expert + "gate_proj.weight_packed", {2048, 896}, DType::kI32);
  expect_tensor(table, expert + "gate_proj.weight_scale", {2048, 224}, DType::kBF16);
  expect_tensor(table, expert + "down_proj.weight_packed", {7168, 256}, DType::kI32);
  expect_tensor(table, expert + "down_proj.weight_scale", {7168, 64}, DType::kBF16);
  expect_tensor(table, expert + "down_proj.weight_shape", {2}, DType::kI32);
  EXPECT_EQ(table.at(expert + "down_proj.weight_shape").logical,
            (std::array<std::int32_t, 2>{7168, 2048}));
  // docs/models.md 10: all text tensors of the published checkpoint, to the byte.
  EXPECT_EQ(total_bytes(table), 594'205'904'896u);
}

TEST(TensorTable, DeepseekV3HasBlockScales) {
  SynthRequest request;
  request.like = "deepseek-v3";
  request.layers = 4;
  const auto table = table_of(request);
  const std::string attention = "model.layers.3.self_attn.";
  expect_tensor(table, attention + "q_b_proj.weight", {24576, 1536}, DType::kF8E4M3);
  expect_tensor(table, attention + "kv_a_proj_with_mqa.weight", {576, 7168}, DType::kF8E4M3);
  expect_tensor(table, attention + "kv_a_proj_with_mqa.weight_scale_inv", {5, 56}, DType::kF32);
  expect_tensor(table, "model.layers.3.mlp.gate.weight", {256, 7168}, DType::kBF16);
  expect_tensor(table, "model.layers.3.mlp.experts.255.up_proj.weight_scale_inv", {16, 56},
                DType::kF32);
  expect_tensor(table, "lm_head.weight", {129280, 7168}, DType::kBF16);
}

TEST(TensorTable, Bf16HasNoScales) {
  SynthRequest request;
  request.like = "ember";
  request.quant = "bf16";
  for (const auto& [name, tensor] : table_of(request)) {
    EXPECT_TRUE(tensor.dtype == DType::kBF16 || tensor.fill == SynthFill::kBias) << name;
  }
}

// 594.5 MB of routed experts per token, as its peers were measured with.
TEST(TensorTable, PresetM2HasItsBytes) {
  SynthRequest request;
  request.preset = "m2";
  std::uint64_t experts = 0;
  for (const auto& [name, tensor] : table_of(request)) {
    if (name.find(".experts.") != std::string::npos && tensor.fill != SynthFill::kShape) {
      experts += tensor.size_bytes();
    }
  }
  EXPECT_EQ(experts * 8 / 96, 594'542'592u);
}

}  // namespace
}  // namespace conclave::apps
