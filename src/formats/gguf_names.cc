#include <algorithm>
#include <array>

#include "formats/formats.h"

namespace conclave::formats {
namespace {

struct Pair {
  std::string_view gguf;
  std::string_view other;
};

constexpr std::array kOutside = {
    Pair{"token_embd", "model.embed_tokens"},
    Pair{"output_norm", "model.norm"},
    Pair{"output", "lm_head"},
};

// Within "blk.N." and "model.layers.N.". docs/models.md 5.7
constexpr std::array kInside = {
    Pair{"attn_norm", "input_layernorm"},
    Pair{"ffn_norm", "post_attention_layernorm"},
    Pair{"post_attention_norm", "post_attention_layernorm"},  // glm4moe, gpt-oss
    Pair{"attn_q", "self_attn.q_proj"},
    Pair{"attn_k", "self_attn.k_proj"},
    Pair{"attn_v", "self_attn.v_proj"},
    Pair{"attn_output", "self_attn.o_proj"},
    Pair{"attn_q_norm", "self_attn.q_norm"},
    Pair{"attn_k_norm", "self_attn.k_norm"},
    Pair{"attn_sinks", "self_attn.sinks"},
    Pair{"attn_q_a", "self_attn.q_a_proj"},
    Pair{"attn_q_a_norm", "self_attn.q_a_layernorm"},
    Pair{"attn_q_b", "self_attn.q_b_proj"},
    Pair{"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    Pair{"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    Pair{"attn_kv_b", "self_attn.kv_b_proj"},
    Pair{"attn_k_b", "self_attn.embed_q"},
    Pair{"attn_v_b", "self_attn.unembed_out"},
    Pair{"ffn_gate", "mlp.gate_proj"},
    Pair{"ffn_up", "mlp.up_proj"},
    Pair{"ffn_down", "mlp.down_proj"},
    Pair{"ffn_gate_inp", "mlp.gate"},
    Pair{"exp_probs_b", "mlp.gate.e_score_correction"},
    Pair{"ffn_gate_exps", "mlp.switch_mlp.gate_proj"},
    Pair{"ffn_up_exps", "mlp.switch_mlp.up_proj"},
    Pair{"ffn_down_exps", "mlp.switch_mlp.down_proj"},
    Pair{"ffn_gate_up_exps", "mlp.experts.gate_up_proj"},
    Pair{"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    Pair{"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    Pair{"ffn_down_shexp", "mlp.shared_experts.down_proj"},
};

template <std::size_t N>
std::string_view look_up(const std::array<Pair, N>& pairs, std::string_view name) {
  const auto found = std::ranges::find(pairs, name, &Pair::gguf);
  return found == pairs.end() ? std::string_view() : found->other;
}

// What safetensors have without a last part.
std::string joined(std::string_view module, std::string_view last) {
  if (module == "self_attn.sinks" || module == "mlp.experts.gate_up_proj") {
    return std::string(module);
  }
  if (module == "mlp.gate.e_score_correction") return std::string(module) + "_bias";
  return std::string(module) + "." + std::string(last);
}

// "ffn_gate.7" of old Mixtral files: an expert of its own.
std::string expert_module(std::string_view module) {
  const std::size_t dot = module.find('.');
  if (dot == module.npos) return {};
  const std::string_view base = look_up(kInside, module.substr(0, dot));
  const std::string_view number = module.substr(dot + 1);
  const bool digits =
      !number.empty() && number.size() < 6 && number.find_first_not_of("0123456789") == number.npos;
  constexpr std::string_view kBlock = "mlp.";
  if (!digits || !base.starts_with(kBlock)) return {};
  return "mlp.experts." + std::string(number) + "." + std::string(base.substr(kBlock.size()));
}

}  // namespace

std::string name_from_gguf(std::string_view name) {
  const std::size_t end = name.rfind('.');
  if (end == name.npos) return std::string(name);
  const std::string_view last = name.substr(end + 1);
  if (last != "weight" && last != "bias") return std::string(name);
  const std::string_view module = name.substr(0, end);
  if (const auto outside = look_up(kOutside, module); !outside.empty()) {
    return joined(outside, last);
  }
  constexpr std::string_view kBlock = "blk.";
  const std::size_t dot = module.find('.', kBlock.size());
  if (!module.starts_with(kBlock) || dot == module.npos) return std::string(name);
  const std::string prefix =
      "model.layers." + std::string(module.substr(kBlock.size(), dot - kBlock.size())) + ".";
  const std::string_view inside = module.substr(dot + 1);
  if (const std::string expert = expert_module(inside); !expert.empty()) {
    return prefix + joined(expert, last);
  }
  // Layers that only guess further tokens: "nextn.eh_proj".
  const std::string_view known = look_up(kInside, inside);
  return prefix +
         (known.empty() ? std::string(inside) + "." + std::string(last) : joined(known, last));
}

Result<std::vector<std::uint64_t>> end_token_ids(const Gguf& gguf) {
  std::vector<std::uint64_t> ids;
  for (const std::string_view key : {"eos", "eot", "eom"}) {
    const auto id = TRY(gguf.count_if_there("tokenizer.ggml." + std::string(key) + "_token_id"));
    if (id) ids.push_back(*id);
  }
  return ids;
}

Result<bool> is_later_kimi(const Gguf& gguf) {
  constexpr std::string_view kFamily = "K2.";
  for (const std::string_view key : {"general.name", "general.basename"}) {
    const std::string name = TRY(gguf.text_if_there(key)).value_or("");
    const std::size_t at = name.find(kFamily);
    if (at == name.npos || at + kFamily.size() >= name.size()) continue;
    const char version = name[at + kFamily.size()];
    if (version >= '5' && version <= '9') return true;
  }
  return false;
}

}  // namespace conclave::formats
