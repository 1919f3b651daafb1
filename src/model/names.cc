#include "model/names.h"

#include <array>
#include <charconv>
#include <optional>

namespace conclave::model {
namespace {

constexpr std::string_view kLayers = "model.layers.";

// By Weight; of a router and of experts what follows moe_block, or the expert's number.
constexpr std::array<std::string_view, kWeights> kModules = {
    "self_attn.q_proj",
    "self_attn.q_a_proj",
    "self_attn.q_b_proj",
    "self_attn.kv_a_proj_with_mqa",
    "self_attn.kv_b_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "",  // Description::router_module
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "mlp.shared_experts.gate_proj",
    "mlp.shared_experts.up_proj",
    "mlp.shared_experts.down_proj",
    "",  // the experts': Description::expert_modules
    "",
    "",
    "model.embed_tokens",
    "lm_head",
};

std::string in_layer(const Description& description, LayerId layer, std::string_view rest) {
  return description.tensor_prefix + std::string(kLayers) + std::to_string(layer.value) + "." +
         std::string(rest);
}

struct LayerName {
  std::size_t layer = 0;
  std::string_view rest;
};

// "model.layers.61.self_attn.x" -> 61, "self_attn.x". Numbers as files write them: no zeros first.
std::optional<LayerName> split_layer(std::string_view name) {
  if (!name.starts_with(kLayers)) return std::nullopt;
  name.remove_prefix(kLayers.size());
  const std::size_t dot = name.find('.');
  if (dot == name.npos || dot == 0 || (dot > 1 && name.front() == '0')) return std::nullopt;
  LayerName result;
  const auto [end, error] = std::from_chars(name.data(), name.data() + dot, result.layer);
  if (error != std::errc() || end != name.data() + dot) return std::nullopt;
  result.rest = name.substr(dot + 1);
  return result;
}

}  // namespace

std::string in_moe_block(const Description& description, LayerId layer, std::string_view rest) {
  return in_layer(description, layer, std::string(description.moe_block) + "." + std::string(rest));
}

std::string split_kv_name(const Description& description, LayerId layer, bool key) {
  return in_layer(description, layer, key ? "self_attn.embed_q" : "self_attn.unembed_out");
}

std::string linear_name(const Description& description, LayerId layer, Weight weight,
                        ExpertId expert) {
  const std::string_view module = kModules[static_cast<std::size_t>(weight)];
  if (weight == Weight::kEmbedding || weight == Weight::kHead) {
    return description.tensor_prefix + std::string(module);
  }
  if (weight == Weight::kRouter) {
    return in_moe_block(description, layer, description.router_module);
  }
  if (weight < Weight::kExpertGate) return in_layer(description, layer, module);
  const std::size_t part =
      static_cast<std::size_t>(weight) - static_cast<std::size_t>(Weight::kExpertGate);
  return in_moe_block(description, layer,
                      "experts." + std::to_string(expert.value) + "." +
                          std::string(description.expert_modules[part]));
}

std::string norm_name(const Description& description, LayerId layer, Norm norm) {
  switch (norm) {
    case Norm::kInput:
      return in_layer(description, layer, "input_layernorm.weight");
    case Norm::kPostAttention:
      return in_layer(description, layer, "post_attention_layernorm.weight");
    case Norm::kQA:
      return in_layer(description, layer, "self_attn.q_a_layernorm.weight");
    case Norm::kKvA:
      return in_layer(description, layer, "self_attn.kv_a_layernorm.weight");
    case Norm::kQ:
      return in_layer(description, layer, "self_attn.q_norm.weight");
    case Norm::kK:
      return in_layer(description, layer, "self_attn.k_norm.weight");
    case Norm::kFinal:
      break;
  }
  return description.tensor_prefix + "model.norm.weight";
}

std::string router_bias_name(const Description& description, LayerId layer) {
  return linear_name(description, layer, Weight::kRouter) + ".e_score_correction_bias";
}

std::string bias_name(const Description& description, LayerId layer, Weight weight) {
  return linear_name(description, layer, weight) + ".bias";
}

std::string sinks_name(const Description& description, LayerId layer) {
  return in_layer(description, layer, "self_attn.sinks");
}

std::string fused_gate_up_name(const Description& description, LayerId layer) {
  return in_moe_block(description, layer, "experts.gate_up_proj");
}

std::string fused_down_name(const Description& description, LayerId layer) {
  return in_moe_block(description, layer, "experts.down_proj");
}

bool is_ignored(const Description& description, std::string_view name) {
  if (description.has_vision &&
      (name.starts_with("vision_tower.") || name.starts_with("mm_projector."))) {
    return true;
  }
  if (!name.starts_with(description.tensor_prefix)) return false;
  name.remove_prefix(description.tensor_prefix.size());
  if (name == "model.rotary_emb.inv_freq") return true;
  const std::optional<LayerName> in = split_layer(name);
  if (!in) return false;
  const std::size_t n_layers = description.config.n_layers;
  if (in->layer >= n_layers) return in->layer - n_layers < description.n_mtp_layers;
  return in->rest == "self_attn.rotary_emb.inv_freq";
}

}  // namespace conclave::model
