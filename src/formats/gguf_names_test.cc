#include <gtest/gtest.h>

#include "formats/formats.h"

namespace conclave::formats {
namespace {

TEST(GgufNames, AsInSafetensors) {
  const std::pair<const char*, const char*> names[] = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output.weight", "lm_head.weight"},
      {"blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"},
      {"blk.0.ffn_down_exps.weight", "model.layers.0.mlp.switch_mlp.down_proj.weight"},
      {"blk.0.ffn_gate_up_exps.weight", "model.layers.0.mlp.experts.gate_up_proj"},
      {"blk.3.exp_probs_b.bias", "model.layers.3.mlp.gate.e_score_correction_bias"},
      {"blk.3.attn_sinks.weight", "model.layers.3.self_attn.sinks"},
      {"blk.3.attn_k_b.weight", "model.layers.3.self_attn.embed_q.weight"},
      {"blk.1.ffn_gate.7.weight", "model.layers.1.mlp.experts.7.gate_proj.weight"},
      {"blk.46.nextn.eh_proj.weight", "model.layers.46.nextn.eh_proj.weight"},
      {"blk.1.ffn_gate.x.weight", "model.layers.1.ffn_gate.x.weight"},
      {"rope_freqs.weight", "rope_freqs.weight"},
      {"blk.weight", "blk.weight"},
      {"", ""},
  };
  for (const auto& [from, to] : names) EXPECT_EQ(name_from_gguf(from), to);
}

}  // namespace
}  // namespace conclave::formats
