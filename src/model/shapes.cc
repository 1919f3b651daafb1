#include "model/shapes.h"

namespace conclave::model {

MatrixShape shape_of(const ModelConfig& config, Weight weight) {
  const std::size_t hidden = config.hidden_size;
  switch (weight) {
    case Weight::kQ:
      return {config.n_heads * config.qk_head_dim(), hidden};
    case Weight::kQA:
      return {config.q_lora_rank, hidden};
    case Weight::kQB:
      return {config.n_heads * config.qk_head_dim(), config.q_lora_rank};
    case Weight::kKvA:
      return {config.kv_width(), hidden};
    case Weight::kKvB:
      return {config.n_heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank};
    case Weight::kK:
      return {config.n_kv_heads * config.qk_head_dim(), hidden};
    case Weight::kV:
      return {config.n_kv_heads * config.v_head_dim, hidden};
    case Weight::kO:
      return {hidden, config.n_heads * config.v_head_dim};
    case Weight::kRouter:
      return {config.n_experts, hidden};
    case Weight::kGate:
    case Weight::kUp:
      return {config.intermediate_size, hidden};
    case Weight::kDown:
      return {hidden, config.intermediate_size};
    case Weight::kSharedGate:
    case Weight::kSharedUp:
      return {config.shared_intermediate_size(), hidden};
    case Weight::kSharedDown:
      return {hidden, config.shared_intermediate_size()};
    case Weight::kExpertGate:
    case Weight::kExpertUp:
      return {config.moe_intermediate_size, hidden};
    case Weight::kExpertDown:
      return {hidden, config.moe_intermediate_size};
    case Weight::kEmbedding:
    case Weight::kHead:
      break;
  }
  return {config.vocab_size, hidden};
}

std::size_t norm_size(const ModelConfig& config, Norm norm) {
  if (norm == Norm::kQA) return config.q_lora_rank;
  if (norm == Norm::kKvA) return config.kv_lora_rank;
  if (norm == Norm::kQ || norm == Norm::kK) return config.qk_head_dim();
  return config.hidden_size;
}

bool layer_has(const ModelConfig& config, LayerId layer, Weight weight) {
  switch (weight) {
    case Weight::kQ:
      return config.q_lora_rank == 0;
    case Weight::kQA:
    case Weight::kQB:
      return config.q_lora_rank != 0;
    case Weight::kKvA:
    case Weight::kKvB:
      return !config.is_grouped();
    case Weight::kK:
    case Weight::kV:
      return config.is_grouped();
    case Weight::kO:
      return true;
    case Weight::kGate:
    case Weight::kUp:
    case Weight::kDown:
      return !config.is_moe(layer);
    case Weight::kSharedGate:
    case Weight::kSharedUp:
    case Weight::kSharedDown:
      return config.is_moe(layer) && config.n_shared_experts > 0;
    case Weight::kEmbedding:
    case Weight::kHead:
      return false;
    default:
      return config.is_moe(layer);
  }
}

bool layer_has(const ModelConfig& config, Norm norm) {
  switch (norm) {
    case Norm::kQA:
      return config.q_lora_rank != 0;
    case Norm::kKvA:
      return !config.is_grouped();
    case Norm::kQ:
    case Norm::kK:
      return config.qk_norm;
    case Norm::kFinal:
      return false;
    default:
      return true;
  }
}

bool has_bias(const ModelConfig& config, Weight weight) {
  switch (weight) {
    case Weight::kQ:
    case Weight::kK:
    case Weight::kV:
      return config.attention_bias;
    case Weight::kO:
    case Weight::kRouter:
    case Weight::kExpertGate:
    case Weight::kExpertUp:
    case Weight::kExpertDown:
      return config.all_biases;
    default:
      return false;
  }
}

}  // namespace conclave::model
