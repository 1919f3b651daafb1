#include "model/gguf_config.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace conclave::model {
namespace {

using formats::Gguf;
using nlohmann::json;

// Keys below the architecture's name: "qwen3moe.block_count".
class Keys {
 public:
  Keys(const Gguf& gguf, std::string architecture)
      : gguf_(gguf), prefix_(std::move(architecture) + ".") {}

  Result<std::uint64_t> count(std::string_view key) const { return gguf_.count(full(key)); }
  Result<std::uint64_t> count_or(std::string_view key, std::uint64_t otherwise) const {
    return TRY(gguf_.count_if_there(full(key))).value_or(otherwise);
  }
  Result<std::optional<std::uint64_t>> count_if_there(std::string_view key) const {
    return gguf_.count_if_there(full(key));
  }
  Result<std::optional<double>> number_if_there(std::string_view key) const {
    return gguf_.number_if_there(full(key));
  }
  Result<double> number(std::string_view key) const {
    const std::optional<double> found = TRY(number_if_there(key));
    if (found) return *found;
    return invalid_input(gguf_.label() + ": " + full(key) + ": missing, expected a number");
  }
  Result<bool> flag_or(std::string_view key, bool otherwise) const {
    return TRY(gguf_.flag_if_there(full(key))).value_or(otherwise);
  }
  Result<std::string> text_or(std::string_view key, std::string_view otherwise) const {
    return TRY(gguf_.text_if_there(full(key))).value_or(std::string(otherwise));
  }
  std::string full(std::string_view key) const { return prefix_ + std::string(key); }
  const Gguf& file() const { return gguf_; }

 private:
  const Gguf& gguf_;
  std::string prefix_;
};

// float32 metadata as the short decimal number that was meant: 1e-6, not 9.99999997e-7.
double short_number(double value) {
  if (value != static_cast<double>(static_cast<float>(value))) return value;
  for (int digits = 1; digits < 10; ++digits) {
    char text[32];
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    const double candidate = std::strtod(text, nullptr);
    if (static_cast<float>(candidate) == static_cast<float>(value)) return candidate;
  }
  return value;
}

Result<void> add_stop_tokens(const Gguf& gguf, json& config) {
  const std::vector<std::uint64_t> ids = TRY(formats::end_token_ids(gguf));
  if (!ids.empty()) config["eos_token_id"] = ids;
  return {};
}

// How many tokens: what the file says, or how many names or rows there are.
Result<std::uint64_t> vocabulary_size(const Keys& keys) {
  for (const formats::Tensor& tensor : keys.file().tensors()) {
    if (tensor.name == "token_embd.weight" && tensor.shape.size() == 2) return tensor.shape[0];
  }
  return keys.count("vocab_size");
}

Result<json> read_yarn(const Keys& keys) {
  json out = {{"type", "yarn"}};
  out["factor"] = short_number(TRY(keys.number("rope.scaling.factor")));
  out["original_max_position_embeddings"] = TRY(keys.count("rope.scaling.original_context_length"));
  for (const auto& [key, field] : {std::pair{"rope.scaling.yarn_beta_fast", "beta_fast"},
                                   std::pair{"rope.scaling.yarn_beta_slow", "beta_slow"}}) {
    if (const auto value = TRY(keys.number_if_there(key))) out[field] = short_number(*value);
  }
  if (const auto log = TRY(keys.number_if_there("rope.scaling.yarn_log_multiplier"))) {
    const double scale =
        short_number(static_cast<double>(static_cast<float>(short_number(*log) * 10.0)));
    out["mscale"] = scale;
    out["mscale_all_dim"] = scale;
  }
  return out;
}

// Keys that would change the result in a way that this engine does not compute.
Result<void> refuse_other_maths(const Keys& keys) {
  const std::pair<std::string_view, double> neutral[] = {
      {"rope.scale_linear", 1.0},
      {"rope.scaling.attn_factor", 1.0},
      {"rope.scaling.yarn_attn_factor", 1.0},
      {"rope.scaling.yarn_ext_factor", 1.0},
      {"attention.temperature_scale", 0.0},
      {"attn_logit_softcapping", 0.0},
      {"final_logit_softcapping", 0.0},
  };
  for (const auto& [key, value] : neutral) {
    const std::optional<double> found = TRY(keys.number_if_there(key));
    if (!found || *found == value) continue;
    return unsupported(keys.file().label() + ": " + keys.full(key) + ": " + std::to_string(*found) +
                       ", expected " + std::to_string(value));
  }
  const std::string type = TRY(keys.text_or("rope.scaling.type", ""));
  const double factor = TRY(keys.number_if_there("rope.scaling.factor")).value_or(1.0);
  if (!type.empty() || factor == 1.0) return {};
  return unsupported(keys.file().label() + ": " + keys.full("rope.scaling.factor") + ": " +
                     std::to_string(factor) + " without a type, expected 1");
}

// What all architectures have.
Result<json> read_common(const Keys& keys) {
  json out;
  out["vocab_size"] = TRY(vocabulary_size(keys));
  out["hidden_size"] = TRY(keys.count("embedding_length"));
  const std::uint64_t extra = TRY(keys.count_or("nextn_predict_layers", 0));
  const std::uint64_t blocks = TRY(keys.count("block_count"));
  out["num_hidden_layers"] = blocks - std::min(extra, blocks);
  out["num_nextn_predict_layers"] = extra;
  out["num_attention_heads"] = TRY(keys.count("attention.head_count"));
  out["max_position_embeddings"] = TRY(keys.count("context_length"));
  out["rms_norm_eps"] = short_number(TRY(keys.number("attention.layer_norm_rms_epsilon")));
  constexpr double kThetaOfLlama = 10000.0;
  out["rope_theta"] =
      short_number(TRY(keys.number_if_there("rope.freq_base")).value_or(kThetaOfLlama));
  TRY(refuse_other_maths(keys));
  const std::string scaling = TRY(keys.text_or("rope.scaling.type", "none"));
  if (scaling == "yarn") {
    out["rope_scaling"] = TRY(read_yarn(keys));
  } else if (scaling != "none") {
    return unsupported(keys.file().label() + ": " + keys.full("rope.scaling.type") + ": \"" +
                       scaling.substr(0, 40) + "\", expected \"yarn\" or \"none\"");
  }
  out["tie_word_embeddings"] = !keys.file().has_tensor("output.weight");
  TRY(add_stop_tokens(keys.file(), out));
  return out;
}

Result<void> add_experts(const Keys& keys, std::string_view count_field, json& out) {
  out[std::string(count_field)] = TRY(keys.count("expert_count"));
  out["num_experts_per_tok"] = TRY(keys.count("expert_used_count"));
  return {};
}

struct GroupedFamily {
  std::string_view architecture, model_type;
  std::string_view count_field;  // of the experts
};

// All that the families with grouped attention share.
Result<json> read_grouped(const Keys& keys, const GroupedFamily& family) {
  json out = TRY(read_common(keys));
  out["architectures"] = {family.architecture};
  out["model_type"] = family.model_type;
  out["num_key_value_heads"] = TRY(keys.count("attention.head_count_kv"));
  const auto heads = out["num_attention_heads"].get<std::uint64_t>();
  const std::uint64_t hidden = out["hidden_size"].get<std::uint64_t>();
  const std::uint64_t head =
      TRY(keys.count_or("attention.key_length", heads > 0 ? hidden / heads : hidden));
  out["head_dim"] = head;
  const std::uint64_t rotated = TRY(keys.count_or("rope.dimension_count", head));
  if (rotated != head && family.model_type != "glm4_moe") {
    return unsupported(keys.file().label() + ": " + keys.full("rope.dimension_count") + ": " +
                       std::to_string(rotated) + ", expected " + std::to_string(head));
  }
  TRY(add_experts(keys, family.count_field, out));
  return out;
}

// 1 softmax, 2 sigmoid; where the file does not say, a selection bias gives it away.
Result<bool> has_sigmoid_router(const Keys& keys) {
  const auto kind = TRY(keys.count_if_there("expert_gating_func"));
  if (kind && *kind != 1 && *kind != 2) {
    return unsupported(keys.file().label() + ": " + keys.full("expert_gating_func") + ": " +
                       std::to_string(*kind) + ", expected 1 (softmax) or 2 (sigmoid)");
  }
  if (kind) return *kind == 2;
  return std::ranges::any_of(keys.file().tensors(), [](const formats::Tensor& tensor) {
    return tensor.name.ends_with("exp_probs_b.bias");
  });
}

Result<void> add_sigmoid_router(const Keys& keys, json& out) {
  out["n_shared_experts"] = TRY(keys.count_or("expert_shared_count", 0));
  out["first_k_dense_replace"] = TRY(keys.count_or("leading_dense_block_count", 0));
  out["moe_intermediate_size"] = TRY(keys.count("expert_feed_forward_length"));
  out["intermediate_size"] = TRY(keys.count("feed_forward_length"));
  out["norm_topk_prob"] = TRY(keys.flag_or("expert_weights_norm", false));
  const auto scale = TRY(keys.number_if_there("expert_weights_scale"));
  // Files of models without one say 0 or nothing.
  out["routed_scaling_factor"] = scale && *scale > 0.0 ? short_number(*scale) : 1.0;
  const auto groups = TRY(keys.count_if_there("expert_group_count"));
  if (!groups || *groups == 0) return {};
  out["n_group"] = *groups;
  out["topk_group"] = TRY(keys.count("expert_group_used_count"));
  return {};
}

// What published files leave out and the published config.json say. docs/models.md 1.1, 1.2, 5.7
Result<void> add_what_files_omit(const Keys& keys, json& out) {
  const auto experts = out["n_routed_experts"].get<std::uint64_t>();
  if (!out.contains("n_group") && experts == 256) out.update({{"n_group", 8}, {"topk_group", 4}});
  if (!out.contains("n_group") && experts == 160) out.update({{"n_group", 8}, {"topk_group", 3}});
  // K2.5 and later have beta_fast 32, which is the default; the older ones 1.
  const bool kimi = experts == 384 && out.contains("rope_scaling");
  if (!kimi || out["rope_scaling"].contains("beta_fast")) return {};
  if (!TRY(formats::is_later_kimi(keys.file()))) out["rope_scaling"]["beta_fast"] = 1.0;
  return {};
}

Result<json> read_deepseek2(const Keys& keys) {
  json out = TRY(read_common(keys));
  const bool sigmoid = TRY(has_sigmoid_router(keys));
  out["architectures"] = {sigmoid ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"};
  out["model_type"] = sigmoid ? "deepseek_v3" : "deepseek_v2";
  const std::uint64_t rope = TRY(keys.count("rope.dimension_count"));
  // Files with split kv_b give the lengths within the cache first.
  const auto key = TRY(keys.count_if_there("attention.key_length_mla"));
  const auto value = TRY(keys.count_if_there("attention.value_length_mla"));
  const std::uint64_t key_length = key ? *key : TRY(keys.count("attention.key_length"));
  if (key_length <= rope) {
    return invalid_input(keys.file().label() + ": " + keys.full("attention.key_length") + ": " +
                         std::to_string(key_length) + ", expected more than rope.dimension_count " +
                         std::to_string(rope));
  }
  out["qk_rope_head_dim"] = rope;
  out["qk_nope_head_dim"] = key_length - rope;
  out["v_head_dim"] = value ? *value : TRY(keys.count("attention.value_length"));
  out["kv_lora_rank"] = TRY(keys.count("attention.kv_lora_rank"));
  if (const auto rank = TRY(keys.count_if_there("attention.q_lora_rank")); rank && *rank > 0) {
    out["q_lora_rank"] = *rank;
  }
  TRY(add_experts(keys, "n_routed_experts", out));
  TRY(add_sigmoid_router(keys, out));
  TRY(add_what_files_omit(keys, out));
  if (!sigmoid) {
    const bool grouped = out.contains("n_group") && out["n_group"].get<std::uint64_t>() > 1;
    out["topk_method"] = grouped ? "group_limited_greedy" : "greedy";
  } else if (!out.contains("n_group")) {
    out.update({{"n_group", 1}, {"topk_group", 1}});
  }
  return out;
}

Result<json> read_qwen3moe(const Keys& keys) {
  json out = TRY(read_grouped(keys, {"Qwen3MoeForCausalLM", "qwen3_moe", "num_experts"}));
  out["moe_intermediate_size"] = TRY(keys.count("expert_feed_forward_length"));
  out["intermediate_size"] =
      TRY(keys.count_or("feed_forward_length", out["moe_intermediate_size"].get<std::uint64_t>()));
  out["norm_topk_prob"] = true;  // the architecture has no other
  out["decoder_sparse_step"] = 1;
  return out;
}

Result<json> read_glm4moe(const Keys& keys) {
  json out = TRY(read_grouped(keys, {"Glm4MoeForCausalLM", "glm4_moe", "n_routed_experts"}));
  const auto head = out["head_dim"].get<std::uint64_t>();
  const std::uint64_t rotated = TRY(keys.count_or("rope.dimension_count", head / 2));
  out["partial_rotary_factor"] =
      static_cast<double>(rotated) / static_cast<double>(std::max<std::uint64_t>(1, head));
  out["use_qk_norm"] = keys.file().has_tensor("blk.0.attn_q_norm.weight");
  out["attention_bias"] = keys.file().has_tensor("blk.0.attn_q.bias");
  if (TRY(keys.count_or("expert_gating_func", 2)) != 2) {
    return unsupported(keys.file().label() + ": " + keys.full("expert_gating_func") +
                       ": expected 2 (sigmoid)");
  }
  TRY(add_sigmoid_router(keys, out));
  if (!out.contains("n_group")) out.update({{"n_group", 1}, {"topk_group", 1}});
  return out;
}

Result<json> read_gpt_oss(const Keys& keys) {
  json out = TRY(read_grouped(keys, {"GptOssForCausalLM", "gpt_oss", "num_local_experts"}));
  out["intermediate_size"] = TRY(keys.count("expert_feed_forward_length"));
  out["sliding_window"] = TRY(keys.count("attention.sliding_window"));
  out["attention_bias"] = true;
  if (out.contains("rope_scaling")) out["rope_scaling"]["truncate"] = false;
  return out;
}

Result<json> read_llama(const Keys& keys) {
  if (TRY(keys.count_or("expert_count", 0)) == 0) {
    return unsupported(keys.file().label() +
                       ": a dense model of architecture llama; conclave runs Mixture-of-Experts");
  }
  json out = TRY(read_grouped(keys, {"MixtralForCausalLM", "mixtral", "num_local_experts"}));
  const std::uint64_t width = TRY(keys.count("feed_forward_length"));
  out["intermediate_size"] = TRY(keys.count_or("expert_feed_forward_length", width));
  return out;
}

struct Architecture {
  std::string_view name;
  Result<json> (*read)(const Keys& keys);
};
constexpr std::array kArchitectures = {
    Architecture{"deepseek2", read_deepseek2}, Architecture{"qwen3moe", read_qwen3moe},
    Architecture{"glm4moe", read_glm4moe},     Architecture{"gpt-oss", read_gpt_oss},
    Architecture{"llama", read_llama},
};

Result<std::string> architecture_of(const Gguf& gguf) {
  return TRY(gguf.text_if_there("general.architecture")).value_or("");
}

}  // namespace

Result<std::string> config_from_gguf(const Gguf& gguf) {
  const std::string name = TRY(architecture_of(gguf));
  const auto found = std::ranges::find(kArchitectures, name, &Architecture::name);
  if (found != kArchitectures.end()) {
    const json config = TRY(found->read(Keys(gguf, name)));
    return config.dump(-1, ' ', false, json::error_handler_t::replace);
  }
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    known += (known.empty() ? "" : ", ") + std::string(architecture.name);
  }
  return unsupported(gguf.label() + ": general.architecture: \"" + name.substr(0, 40) +
                     "\", expected one of " + known);
}

Result<Description> describe_gguf(const Gguf& gguf) {
  const std::string config = TRY(config_from_gguf(gguf));
  Description out = TRY(parse_description(config, gguf.label()));
  const Description standard;
  out.moe_block = standard.moe_block;
  out.expert_modules = standard.expert_modules;
  out.router_module = standard.router_module;
  // Converters reorder the rows of llama's queries and keys so that pairs are neighbours.
  if (TRY(architecture_of(gguf)) == "llama") out.config.rope_interleaved = true;
  return out;
}

}  // namespace conclave::model
