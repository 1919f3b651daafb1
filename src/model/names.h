// How checkpoints name tensors, and the named list of those that we leave alone.
// docs/models.md 4.2, 4.3.
#pragma once

#include <string>
#include <string_view>

#include "model/description.h"

namespace conclave::model {

inline constexpr std::size_t kWeights = static_cast<std::size_t>(Weight::kHead) + 1;

// The module, without ".weight": "model.layers.3.mlp.experts.7.up_proj", prefix included.
std::string linear_name(const Description& description, LayerId layer, Weight weight,
                        ExpertId expert = {});
std::string norm_name(const Description& description, LayerId layer, Norm norm);
std::string router_bias_name(const Description& description, LayerId layer);
std::string bias_name(const Description& description, LayerId layer, Weight weight);
std::string in_moe_block(const Description& description, LayerId layer, std::string_view rest);
// Where kv_b comes in two halves: the module of W_uk, or of W_uv.
std::string split_kv_name(const Description& description, LayerId layer, bool key);
std::string sinks_name(const Description& description, LayerId layer);

// transformers 5 may write all experts of a layer as one tensor.
std::string fused_gate_up_name(const Description& description, LayerId layer);
std::string fused_down_name(const Description& description, LayerId layer);

// The named list: vision tower and projector (K2.5 only), MTP layers (as many as the config says),
// rotary_emb.inv_freq (computed from the config).
bool is_ignored(const Description& description, std::string_view name);

}  // namespace conclave::model
