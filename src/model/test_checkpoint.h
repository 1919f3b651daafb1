// A tiny checkpoint for tests: made in memory, spoilt at will, written to a temp dir.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/rng.h"
#include "model/model.h"

namespace conclave::model {

struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<std::size_t> shape;
  std::string bytes;
};

// hidden 64, 3 layers (1 dense), 4 experts, 2 heads, MLA with q_lora 32, vocabulary 64.
inline nlohmann::json tiny_config() {
  return nlohmann::json::parse(R"({
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2",
    "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 3, "first_k_dense_replace": 1,
    "intermediate_size": 96, "moe_intermediate_size": 32, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
    "routed_scaling_factor": 2.5, "moe_layer_freq": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "q_lora_rank": 32, "kv_lora_rank": 48, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 32, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0, "max_position_embeddings": 4096, "attention_bias": false,
    "tie_word_embeddings": false, "num_nextn_predict_layers": 0, "eos_token_id": 5
  })");
}

// The same with grouped attention: 4 heads of 32, 2 KV heads, norms and biases, half rotated.
inline nlohmann::json tiny_grouped_config() {
  return nlohmann::json::parse(R"({
    "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe",
    "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 3, "first_k_dense_replace": 1,
    "intermediate_size": 96, "moe_intermediate_size": 32, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "norm_topk_prob": true, "routed_scaling_factor": 2.5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "use_qk_norm": true, "attention_bias": true,
    "partial_rotary_factor": 0.5, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0, "max_position_embeddings": 4096, "tie_word_embeddings": false,
    "eos_token_id": 5
  })");
}

// Windows in layers 0 and 2, sinks, biases everywhere; experts of width 64 in MXFP4.
inline nlohmann::json tiny_gpt_oss_config() {
  return nlohmann::json::parse(R"({
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
    "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 64,
    "num_local_experts": 4, "num_experts_per_tok": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "attention_bias": true, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "max_position_embeddings": 4096,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    "sliding_window": 80, "swiglu_limit": 7.0, "tie_word_embeddings": false, "eos_token_id": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "quantization_config": {"quant_method": "mxfp4"}
  })");
}

inline nlohmann::json int4_quantization() {
  return nlohmann::json::parse(R"({
    "quant_method": "compressed-tensors", "format": "pack-quantized",
    "quantization_status": "compressed", "kv_cache_scheme": null, "ignore": ["lm_head"],
    "config_groups": {"group_0": {"targets": ["Linear"], "input_activations": null,
      "output_activations": null, "weights": {"num_bits": 4, "type": "int", "symmetric": true,
      "strategy": "group", "group_size": 32, "dynamic": false, "actorder": null,
      "observer": "minmax"}}}
  })");
}

inline nlohmann::json fp8_quantization() {
  return nlohmann::json::parse(R"({"quant_method": "fp8", "fmt": "e4m3",
    "activation_scheme": "dynamic", "weight_block_size": [128, 128]})");
}

class TestCheckpoint {
 public:
  enum class Kind { kBf16, kInt4Experts, kFp8, kFused, kGrouped, kGptOss };

  explicit TestCheckpoint(Kind kind, const std::string& prefix = "")
      : config(tiny_config()), kind_(kind) {
    if (kind == Kind::kGrouped) config = tiny_grouped_config();
    if (kind == Kind::kGptOss) config = tiny_gpt_oss_config();
    if (kind == Kind::kInt4Experts) config["quantization_config"] = int4_quantization();
    if (kind == Kind::kFp8) config["quantization_config"] = fp8_quantization();
    plain(prefix + "model.embed_tokens.weight", {64, 64});
    plain(prefix + "lm_head.weight", {64, 64});
    plain(prefix + "model.norm.weight", {64});
    for (int layer = 0; layer < 3; ++layer) {
      add_layer(prefix + "model.layers." + std::to_string(layer) + ".", layer > 0);
    }
  }

  TestTensor& at(const std::string& name) {
    const auto place = std::ranges::find(tensors, name, &TestTensor::name);
    EXPECT_NE(place, tensors.end()) << name;
    return *place;
  }
  void remove(const std::string& name) {
    EXPECT_EQ(std::erase_if(tensors, [&name](const TestTensor& t) { return t.name == name; }), 1u);
  }
  void plain(const std::string& name, std::vector<std::size_t> shape) {
    const std::size_t count = elements(shape);
    std::string bytes;
    for (std::size_t i = 0; i < count; ++i) bytes += bf16(random_.uniform() - 0.5);
    tensors.push_back({name, "BF16", std::move(shape), std::move(bytes)});
  }

  void write(const std::filesystem::path& dir) const {
    std::filesystem::create_directories(dir);
    std::ofstream(dir / "config.json") << config.dump();
    nlohmann::json header = nlohmann::json::object();
    std::string data;
    for (const TestTensor& tensor : tensors) {
      header[tensor.name] = {{"dtype", tensor.dtype},
                             {"shape", tensor.shape},
                             {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
      data += tensor.bytes;
    }
    const std::string text = header.dump();
    const std::uint64_t size = text.size();
    std::ofstream file(dir / "model.safetensors", std::ios::binary);
    file.write(reinterpret_cast<const char*>(&size), sizeof size) << text << data;
  }

  static std::string bf16(double value) {
    const auto bits = static_cast<float>(value);
    return std::string(reinterpret_cast<const char*>(&bits) + 2, 2);
  }
  static std::string f32(float value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  }

  nlohmann::json config;
  std::vector<TestTensor> tensors;

 private:
  static std::size_t elements(const std::vector<std::size_t>& shape) {
    std::size_t count = 1;
    for (const std::size_t size : shape) count *= size;
    return count;
  }
  std::string random_bytes(std::size_t count, unsigned mask) {
    std::string bytes;
    for (std::size_t i = 0; i < count; ++i) bytes += static_cast<char>(random_.next() & mask);
    return bytes;
  }
  static std::string repeat(const std::string& value, std::size_t count) {
    std::string bytes;
    for (std::size_t i = 0; i < count; ++i) bytes += value;
    return bytes;
  }

  void linear(const std::string& name, std::size_t rows, std::size_t cols) {
    if (kind_ != Kind::kFp8) return plain(name + ".weight", {rows, cols});
    const std::size_t blocks = (rows + 127) / 128 * ((cols + 127) / 128);
    tensors.push_back({name + ".weight", "F8_E4M3", {rows, cols}, random_bytes(rows * cols, 0xfe)});
    tensors.push_back({name + ".weight_scale_inv",
                       "F32",
                       {(rows + 127) / 128, (cols + 127) / 128},
                       repeat(f32(0.25f), blocks)});
  }
  void expert(const std::string& name, std::size_t rows, std::size_t cols) {
    if (kind_ != Kind::kInt4Experts) return linear(name, rows, cols);
    const std::int32_t shape[2] = {static_cast<std::int32_t>(rows),
                                   static_cast<std::int32_t>(cols)};
    tensors.push_back(
        {name + ".weight_packed", "I32", {rows, cols / 8}, random_bytes(rows * cols / 2, 0xff)});
    tensors.push_back(
        {name + ".weight_scale", "BF16", {rows, cols / 32}, repeat(bf16(0.125), rows * cols / 32)});
    tensors.push_back({name + ".weight_shape",
                       "I32",
                       {2},
                       std::string(reinterpret_cast<const char*>(shape), sizeof shape)});
  }

  void add_layer(const std::string& at, bool moe) {
    plain(at + "input_layernorm.weight", {64});
    plain(at + "post_attention_layernorm.weight", {64});
    if (kind_ == Kind::kGptOss) {
      add_grouped_attention(at + "self_attn.");
      plain(at + "self_attn.o_proj.bias", {64});
      plain(at + "self_attn.sinks", {4});
      add_mxfp4_experts(at + "mlp.");
      return;
    }
    if (kind_ == Kind::kGrouped) {
      add_grouped_attention(at + "self_attn.");
    } else {
      add_latent_attention(at + "self_attn.");
    }
    if (!moe) return add_ffn(at + "mlp.", 96);
    add_moe(at + "mlp.");
  }
  void add_grouped_attention(const std::string& at) {
    for (const char* part : {"q", "k", "v"}) {
      const std::size_t rows = part == std::string("q") ? 128 : 64;
      linear(at + part + "_proj", rows, 64);
      plain(at + part + "_proj.bias", {rows});
      const bool norm = kind_ == Kind::kGrouped && part != std::string("v");
      if (norm) plain(at + part + "_norm.weight", {32});
    }
    linear(at + "o_proj", 64, 128);
  }
  void add_mxfp4_experts(const std::string& at) {
    plain(at + "router.weight", {4, 64});
    plain(at + "router.bias", {4});
    const auto stacked = [&](const std::string& name, std::size_t rows, std::size_t cols) {
      tensors.push_back(
          {name + "_blocks", "U8", {4, rows, cols / 32, 16}, random_bytes(2 * rows * cols, 0xff)});
      tensors.push_back({name + "_scales",
                         "U8",
                         {4, rows, cols / 32},
                         std::string(4 * rows * cols / 32, static_cast<char>(122))});
      plain(name + "_bias", {4, rows});
    };
    stacked(at + "experts.gate_up_proj", 128, 64);
    stacked(at + "experts.down_proj", 64, 64);
  }
  void add_latent_attention(const std::string& at) {
    linear(at + "q_a_proj", 32, 64);
    plain(at + "q_a_layernorm.weight", {32});
    linear(at + "q_b_proj", 48, 32);
    linear(at + "kv_a_proj_with_mqa", 56, 64);
    plain(at + "kv_a_layernorm.weight", {48});
    linear(at + "kv_b_proj", 96, 48);
    linear(at + "o_proj", 64, 64);
  }
  void add_moe(const std::string& at) {
    plain(at + "gate.weight", {4, 64});
    tensors.push_back({at + "gate.e_score_correction_bias",
                       "F32",
                       {4},
                       f32(0.5f) + f32(1.0f) + f32(-1.0f) + f32(0.0f)});
    add_ffn(at + "shared_experts.", 32);
    if (kind_ == Kind::kFused) {
      plain(at + "experts.gate_up_proj", {4, 64, 64});
      plain(at + "experts.down_proj", {4, 64, 32});
      return;
    }
    for (int e = 0; e < 4; ++e) {
      const std::string name = at + "experts." + std::to_string(e) + ".";
      expert(name + "gate_proj", 32, 64);
      expert(name + "up_proj", 32, 64);
      expert(name + "down_proj", 64, 32);
    }
  }
  void add_ffn(const std::string& at, std::size_t width) {
    linear(at + "gate_proj", width, 64);
    linear(at + "up_proj", width, 64);
    linear(at + "down_proj", 64, width);
  }

  Kind kind_;
  SplitMix random_{7};
};

// A temp dir of the running test, removed at its end.
class CheckpointDirTest : public testing::Test {
 protected:
  void SetUp() override {
    const testing::TestInfo& info = *testing::UnitTest::GetInstance()->current_test_info();
    dir_ = std::filesystem::path(testing::TempDir()) /
           (std::string(info.test_suite_name()) + "_" + info.name());
    std::filesystem::remove_all(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  Result<ModelSource> open(const TestCheckpoint& checkpoint) const {
    checkpoint.write(dir_);
    return ModelSource::open(dir_);
  }
  std::string error_of(const TestCheckpoint& checkpoint) const {
    const auto source = open(checkpoint);
    return source ? "opened" : source.error().message;
  }

  std::filesystem::path dir_;
};

}  // namespace conclave::model
