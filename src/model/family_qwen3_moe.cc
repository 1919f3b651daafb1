// Qwen3-MoE: 30B-A3B, 235B-A22B, Coder. docs/models.md 1.3, 2.8, 2.9: grouped-query attention with
// a norm on each head's query and key, softmax over all experts, no shared expert
// (arXiv 2505.09388 section 2).
#include <algorithm>

#include "model/family.h"

namespace conclave::model {
namespace {

Result<void> read_dense(const Fields& fields, ModelConfig& config) {
  config.moe_layer_freq = TRY(fields.count_or("decoder_sparse_step", 1, {1, 1024}));
  config.moe_layer_shift = 1;
  const nlohmann::json* list = fields.find("mlp_only_layers");
  if (list == nullptr) return {};
  if (!list->is_array()) return fields.invalid("mlp_only_layers", "a list of layers");
  for (const nlohmann::json& layer : *list) {
    if (!layer.is_number_unsigned() || layer.get<std::uint64_t>() >= config.n_layers) {
      return fields.invalid("mlp_only_layers", "layers of this model");
    }
    config.dense_layers.push_back(layer.get<std::uint16_t>());
  }
  if (!std::ranges::is_sorted(config.dense_layers, std::ranges::less_equal{})) {
    return fields.invalid("mlp_only_layers", "ascending layers");
  }
  return {};
}

}  // namespace

Result<void> describe_qwen3_moe(const Fields& fields, Description& out) {
  ModelConfig& config = out.config;
  TRY(read_norm_eps(fields, 1e-6, config));
  TRY(read_grouped_attention(fields, 1.0, config));
  config.qk_norm = true;
  TRY(read_dense(fields, config));
  config.intermediate_size = TRY(fields.count("intermediate_size", kDimension));
  TRY(read_experts(fields, "num_experts", config));
  config.moe_intermediate_size = TRY(fields.count("moe_intermediate_size", kDimension));
  config.router = RouterKind::kSoftmaxGreedy;
  config.norm_topk_prob = TRY(fields.flag_or("norm_topk_prob", false));
  return {};
}

}  // namespace conclave::model
