#include "apps/synth_model.h"

#include <fmt/format.h>

#include <numeric>
#include <vector>

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;
using model::ModelConfig;
using model::RouterKind;

// What Kimi K2 and DeepSeek V2 and V3 have in common. docs/models.md 1.1 and 1.2.
ModelConfig mla_config() {
  ModelConfig c;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.rope.yarn = true;
  c.rope.original_max_positions = 4096;
  c.rope.beta_slow = 1.0;
  c.rope.mscale = 1.0;
  c.rope.mscale_all_dim = 1.0;
  return c;
}

ModelConfig v3_size_config() {
  ModelConfig c = mla_config();
  c.architecture = "DeepseekV3ForCausalLM";
  c.hidden_size = 7168;
  c.n_layers = 61;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.n_shared_experts = 1;
  c.experts_per_token = 8;
  c.q_lora_rank = 1536;
  return c;
}

// Kimi K2-Thinking.
ModelConfig kimi_k2_config() {
  ModelConfig c = v3_size_config();
  c.model_type = "kimi_k2";
  c.vocab_size = 163840;
  c.n_dense_layers = 1;
  c.n_experts = 384;
  c.n_heads = 64;
  c.routed_scaling_factor = 2.827f;
  c.rms_norm_eps = 1e-5f;
  c.rope.theta = 50000.0;
  c.rope.factor = 64.0;
  c.rope.beta_fast = 1.0;
  c.max_positions = 262144;
  return c;
}

ModelConfig deepseek_v3_config() {
  ModelConfig c = v3_size_config();
  c.model_type = "deepseek_v3";
  c.vocab_size = 129280;
  c.n_dense_layers = 3;
  c.n_experts = 256;
  c.n_group = 8;
  c.topk_group = 4;
  c.n_heads = 128;
  c.routed_scaling_factor = 2.5f;
  c.rope.factor = 40.0;
  c.max_positions = 163840;
  return c;
}

// The shape of preset m1.
ModelConfig deepseek_v2_lite_config() {
  ModelConfig c = mla_config();
  c.architecture = "DeepseekV2ForCausalLM";
  c.model_type = "deepseek_v2";
  c.vocab_size = 102400;
  c.hidden_size = 2048;
  c.n_layers = 27;
  c.n_dense_layers = 1;
  c.intermediate_size = 10944;
  c.moe_intermediate_size = 1408;
  c.n_experts = 64;
  c.n_shared_experts = 2;
  c.experts_per_token = 6;
  c.router = RouterKind::kSoftmaxGreedy;
  c.norm_topk_prob = false;
  c.n_heads = 16;
  c.rope.factor = 40.0;
  c.rope.mscale = 0.707;
  c.rope.mscale_all_dim = 0.707;
  c.max_positions = 163840;
  return c;
}

// Qwen3-30B-A3B. docs/models.md 1.3.
ModelConfig qwen3_30b_config() {
  ModelConfig c;
  c.architecture = "Qwen3MoeForCausalLM";
  c.model_type = "qwen3_moe";
  c.vocab_size = 151936;
  c.hidden_size = 2048;
  c.n_layers = 48;
  c.intermediate_size = 6144;
  c.moe_intermediate_size = 768;
  c.n_experts = 128;
  c.experts_per_token = 8;
  c.router = RouterKind::kSoftmaxGreedy;
  c.n_heads = 32;
  c.n_kv_heads = 4;
  c.qk_rope_head_dim = 128;
  c.v_head_dim = 128;
  c.rope_interleaved = false;
  c.qk_norm = true;
  c.rope.theta = 1e6;
  c.max_positions = 40960;
  return c;
}

ModelConfig ember_config() {
  ModelConfig c = mla_config();
  c.architecture = "DeepseekV3ForCausalLM";
  c.model_type = "kimi_k2";
  c.vocab_size = 8192;
  c.hidden_size = 384;
  c.n_layers = 8;
  c.n_dense_layers = 1;
  c.intermediate_size = 1024;
  c.moe_intermediate_size = 128;
  c.n_experts = 32;
  c.n_shared_experts = 1;
  c.experts_per_token = 4;
  c.routed_scaling_factor = 2.5f;
  c.n_heads = 8;
  c.q_lora_rank = 192;
  c.kv_lora_rank = 128;
  c.qk_nope_head_dim = 64;
  c.qk_rope_head_dim = 32;
  c.v_head_dim = 64;
  c.rope.factor = 4.0;
  c.rope.original_max_positions = 1024;
  c.max_positions = 4096;
  return c;
}

// The preset's shape with INT4 experts.
Result<ModelConfig> preset_config(const std::string& preset) {
  ModelConfig c;
  if (preset == "m1") {
    c = deepseek_v2_lite_config();
  } else if (preset == "m2") {
    c = kimi_k2_config();
    c.n_layers = 3;
    c.n_dense_layers = 0;
    c.n_experts = 96;
  } else if (preset == "m3") {
    c = qwen3_30b_config();
    c.n_layers = 24;
  } else {
    return invalid_input(fmt::format("preset {}: choose m1, m2 or m3", preset));
  }
  c.vocab_size = 8192;
  c.max_positions = 4096;
  return c;
}

Result<ModelConfig> family_config(const SynthRequest& request) {
  if (!request.preset.empty()) return preset_config(request.preset);
  if (request.like == "kimi-k2") return kimi_k2_config();
  if (request.like == "deepseek-v3") return deepseek_v3_config();
  if (request.like == "ember") return ember_config();
  if (request.like == "qwen3-30b") return qwen3_30b_config();
  return invalid_input(
      "which model? Give --like kimi-k2, deepseek-v3, qwen3-30b or ember, or --preset");
}

Result<SynthQuant> choose_quant(const std::string& name, const ModelConfig& config) {
  if (name == "official") {
    if (config.model_type == "deepseek_v3") return SynthQuant::kFp8;
    return config.is_grouped() ? SynthQuant::kBf16 : SynthQuant::kInt4;
  }
  if (name == "int4-g32") return SynthQuant::kInt4;
  if (name == "int8") return SynthQuant::kInt8Exact;
  if (name == "bf16") return SynthQuant::kBf16;
  return invalid_input(fmt::format("--quant {}: choose official, int4-g32, int8 or bf16", name));
}

Result<void> check_sizes(const ModelConfig& c) {
  if (c.n_layers == 0) return invalid_input("--layers 0: give at least 1");
  if (c.n_dense_layers > c.n_layers) {
    return invalid_input(fmt::format("--dense {}: the model has {} layers: give fewer",
                                     c.n_dense_layers, c.n_layers));
  }
  if (c.n_experts < c.experts_per_token || c.n_experts > 65535 || c.n_experts % c.n_group != 0) {
    return invalid_input(fmt::format("--experts {}: give {} to 65535, a multiple of {}",
                                     c.n_experts, c.experts_per_token, c.n_group));
  }
  const std::size_t least = kSpecialTokens + kByteTokens;
  if (c.vocab_size < least || c.vocab_size > (1u << 20)) {
    return invalid_input(fmt::format("--vocab {}: give {} to {}", c.vocab_size, least, 1u << 20));
  }
  if (c.max_positions == 0) return invalid_input("--context 0: give at least 1");
  return {};
}

Json rope_json(const ModelConfig& c) {
  Json rope;
  rope["type"] = "yarn";
  rope["factor"] = c.rope.factor;
  rope["original_max_position_embeddings"] = c.rope.original_max_positions;
  rope["beta_fast"] = c.rope.beta_fast;
  rope["beta_slow"] = c.rope.beta_slow;
  rope["mscale"] = c.rope.mscale;
  rope["mscale_all_dim"] = c.rope.mscale_all_dim;
  return rope;
}

Json int4_json() {
  Json weights;
  weights["num_bits"] = 4;
  weights["type"] = "int";
  weights["symmetric"] = true;
  weights["strategy"] = "group";
  weights["group_size"] = 32;
  weights["observer"] = "minmax";
  weights["dynamic"] = false;
  weights["actorder"] = nullptr;
  weights["block_structure"] = nullptr;
  Json group;
  group["targets"] = Json::array({"Linear"});
  group["input_activations"] = nullptr;
  group["output_activations"] = nullptr;
  group["weights"] = weights;
  Json quant;
  quant["quant_method"] = "compressed-tensors";
  quant["format"] = "pack-quantized";
  quant["quantization_status"] = "compressed";
  quant["kv_cache_scheme"] = nullptr;
  quant["ignore"] = Json::array({"lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
                                 "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"});
  quant["config_groups"] = Json::object({{"group_0", group}});
  return quant;
}

Json fp8_json() {
  Json quant;
  quant["quant_method"] = "fp8";
  quant["fmt"] = "e4m3";
  quant["activation_scheme"] = "dynamic";
  quant["weight_block_size"] = Json::array({128, 128});
  return quant;
}

// Through the shortest decimal text, so that 2.827f is written as 2.827.
Json decimal(float value) { return Json::parse(fmt::format("{}", value)); }

void add_experts(const ModelConfig& c, Json& json) {
  json["moe_intermediate_size"] = c.moe_intermediate_size;
  json["num_experts_per_tok"] = c.experts_per_token;
  json["norm_topk_prob"] = c.norm_topk_prob;
  if (c.is_grouped()) {
    json["num_experts"] = c.n_experts;
    json["decoder_sparse_step"] = c.moe_layer_freq;
    std::vector<std::size_t> dense(c.n_dense_layers);
    std::iota(dense.begin(), dense.end(), std::size_t{0});
    json["mlp_only_layers"] = dense;
    return;
  }
  json["first_k_dense_replace"] = c.n_dense_layers;
  json["n_routed_experts"] = c.n_experts;
  json["n_shared_experts"] = c.n_shared_experts;
  const bool sigmoid = c.router == RouterKind::kSigmoidBiased;
  json["n_group"] = c.n_group;
  json["topk_group"] = c.topk_group;
  json["topk_method"] = sigmoid ? "noaux_tc" : "greedy";
  json["scoring_func"] = sigmoid ? "sigmoid" : "softmax";
  json["routed_scaling_factor"] = decimal(c.routed_scaling_factor);
  json["moe_layer_freq"] = c.moe_layer_freq;
}

void add_attention(const ModelConfig& c, Json& json) {
  json["num_attention_heads"] = c.n_heads;
  json["num_key_value_heads"] = c.is_grouped() ? c.n_kv_heads : c.n_heads;
  json["attention_bias"] = false;
  json["attention_dropout"] = 0.0;
  json["rope_theta"] = c.rope.theta;
  json["rope_scaling"] = c.rope.yarn ? rope_json(c) : Json(nullptr);
  if (c.is_grouped()) {
    json["head_dim"] = c.v_head_dim;
    json["sliding_window"] = nullptr;
    json["use_sliding_window"] = false;
    return;
  }
  json["q_lora_rank"] = c.q_lora_rank == 0 ? Json(nullptr) : Json(c.q_lora_rank);
  json["kv_lora_rank"] = c.kv_lora_rank;
  json["qk_nope_head_dim"] = c.qk_nope_head_dim;
  json["qk_rope_head_dim"] = c.qk_rope_head_dim;
  json["v_head_dim"] = c.v_head_dim;
}

}  // namespace

Result<SynthModel> synth_model(const SynthRequest& request) {
  SynthModel model;
  model.config = TRY(family_config(request));
  ModelConfig& c = model.config;
  c.n_layers = request.layers.value_or(c.n_layers);
  c.n_dense_layers = request.dense.value_or(c.n_dense_layers);
  c.n_experts = request.experts.value_or(c.n_experts);
  c.vocab_size = request.vocab.value_or(c.vocab_size);
  c.max_positions = request.context.value_or(c.max_positions);
  model.quant = TRY(choose_quant(request.quant, c));
  model.seed = request.seed;
  TRY(check_sizes(c));
  // The same reader that will load it: what this build cannot run is refused before gigabytes are
  // written.
  TRY(model::parse_config(config_json(model).dump(), "config of the synthetic model"));
  return model;
}

Json config_json(const SynthModel& model) {
  const ModelConfig& c = model.config;
  const std::size_t first_special = c.vocab_size - kSpecialTokens;
  Json json;
  json["architectures"] = Json::array({c.architecture});
  json["model_type"] = c.model_type;
  json["vocab_size"] = c.vocab_size;
  json["hidden_size"] = c.hidden_size;
  json["num_hidden_layers"] = c.n_layers;
  json["intermediate_size"] = c.intermediate_size;
  add_experts(c, json);
  add_attention(c, json);
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = decimal(c.rms_norm_eps);
  json["max_position_embeddings"] = c.max_positions;
  json["tie_word_embeddings"] = false;
  json["num_nextn_predict_layers"] = 0;
  json["bos_token_id"] = first_special;
  json["eos_token_id"] = first_special + 2;
  json["pad_token_id"] = c.vocab_size - 1;
  json["torch_dtype"] = "bfloat16";
  json["use_cache"] = true;
  if (model.quant == SynthQuant::kInt4) json["quantization_config"] = int4_json();
  if (model.quant == SynthQuant::kFp8) json["quantization_config"] = fp8_json();
  return json;
}

}  // namespace conclave::apps
