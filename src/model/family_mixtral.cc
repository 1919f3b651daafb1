// Mixtral 8x7B and 8x22B. docs/models.md 1.3, 2.8, 2.9: grouped-query attention; softmax over the
// chosen experts alone, which equals softmax over all and division by their sum
// (arXiv 2401.04088 section 2.1). w1, w3 and w2 are gate, up and down.
#include "model/family.h"

namespace conclave::model {

Result<void> describe_mixtral(const Fields& fields, Description& out) {
  ModelConfig& config = out.config;
  TRY(read_norm_eps(fields, 1e-5, config));
  out.rope_defaults.theta = 1e6;
  TRY(read_grouped_attention(fields, 1.0, config));
  TRY(read_experts(fields, "num_local_experts", config));
  config.moe_intermediate_size = TRY(fields.count("intermediate_size", kDimension));
  config.intermediate_size = config.moe_intermediate_size;
  config.router = RouterKind::kSoftmaxGreedy;
  config.norm_topk_prob = true;
  out.moe_block = "block_sparse_moe";
  out.expert_modules = {"w1", "w3", "w2"};
  return {};
}

}  // namespace conclave::model
