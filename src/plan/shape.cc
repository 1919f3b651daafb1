// Parameters, bytes and arithmetic of each part of a model.
#include "plan/shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "plan/units.h"

namespace conclave::plan {
namespace {

constexpr std::size_t kSizeMax = 100'000'000;  // beyond any model's width, layers or vocabulary

// Elements that one token leaves in one layer's cache.
double kv_elements(const Architecture& a) {
  if (a.attention == AttentionKind::kGqa) return 2.0 * as_double(a.n_kv_heads * a.head_dim);
  return as_double(a.kv_lora_rank + a.qk_rope_head_dim);
}

double attention_parameters(const Architecture& a) {
  const double hidden = as_double(a.hidden_size);
  const double heads = as_double(a.n_heads);
  if (a.attention == AttentionKind::kGqa) {
    const double head_dim = as_double(a.head_dim);
    const double kv_heads = splits_kv_heads(a) ? as_double(a.n_kv_heads) : 0.0;
    return 2.0 * hidden * (heads + kv_heads) * head_dim;
  }
  const double q_in = as_double(a.q_lora_rank != 0 ? a.q_lora_rank : a.hidden_size);
  const double q_dim = as_double(a.qk_nope_head_dim + a.qk_rope_head_dim);
  const double kv_b =
      as_double(a.kv_lora_rank) * heads * as_double(a.qk_nope_head_dim + a.v_head_dim);
  return q_in * heads * q_dim + kv_b + heads * as_double(a.v_head_dim) * hidden;
}

double small_attention_parameters(const Architecture& a) {
  if (a.attention == AttentionKind::kGqa) {
    return splits_kv_heads(a) ? 0.0 : as_double(a.hidden_size) * kv_elements(a);
  }
  return as_double(a.hidden_size) * as_double(a.q_lora_rank + a.kv_lora_rank + a.qk_rope_head_dim);
}

// Keys that one new token looks at, summed over layers.
double keys_seen(const Architecture& a, std::size_t context) {
  const std::size_t window = a.n_sliding_layers > 0 ? a.sliding_window : context;
  return as_double(a.n_layers - a.n_sliding_layers) * as_double(context) +
         as_double(a.n_sliding_layers) * as_double(std::min(context, window));
}

Result<void> check_sizes(const Architecture& a) {
  struct Field {
    const char* name;
    std::size_t value;
    bool needed;
  };
  const bool mla = a.attention == AttentionKind::kMla;
  const bool dense = a.n_dense_layers > 0;
  const Field fields[] = {
      {"layers", a.n_layers, true},
      {"hidden", a.hidden_size, true},
      {"vocab", a.vocab_size, true},
      {"heads", a.n_heads, true},
      {"kv_lora", a.kv_lora_rank, mla},
      {"q_lora", a.q_lora_rank, false},
      {"nope_dim", a.qk_nope_head_dim, mla},
      {"rope_dim", a.qk_rope_head_dim, false},
      {"v_dim", a.v_head_dim, mla},
      {"kv_heads", a.n_kv_heads, !mla},
      {"head_dim", a.head_dim, !mla},
      {"sliding_window", a.sliding_window, a.n_sliding_layers > 0},
      {"experts", a.n_experts, true},
      {"experts_per_token", a.experts_per_token, true},
      {"shared_experts", a.n_shared_experts, false},
      {"expert_width", a.moe_intermediate_size, true},
      {"shared_width", a.shared_intermediate_size, false},
      {"dense_width", a.intermediate_size, dense},
  };
  for (const Field& field : fields) {
    if (field.needed && field.value == 0) {
      return invalid_input(fmt::format("model {}: {} is missing or zero", a.name, field.name));
    }
    if (field.value > kSizeMax) {
      return invalid_input(
          fmt::format("model {}: {} = {} is beyond any model", a.name, field.name, field.value));
    }
  }
  return {};
}

}  // namespace

std::string_view name_of(Format format) {
  constexpr std::string_view kNames[kFormats] = {"int4", "int8", "fp8", "bf16", "f32"};
  return kNames[static_cast<std::size_t>(format)];
}

std::string_view name_of(Part part) {
  constexpr std::string_view kNames[kParts] = {"attention",      "attention (shared inputs)",
                                               "router",         "shared experts",
                                               "routed experts", "dense layers",
                                               "head",           "embedding"};
  return kNames[static_cast<std::size_t>(part)];
}

Architecture architecture_of(const model::ModelConfig& config, std::string name) {
  Architecture a;
  a.name = std::move(name);
  a.attention = config.is_grouped() ? AttentionKind::kGqa : AttentionKind::kMla;
  a.n_layers = config.n_layers;
  a.n_dense_layers = config.n_layers - config.n_moe_layers();
  a.hidden_size = config.hidden_size;
  a.vocab_size = config.vocab_size;
  a.n_heads = config.n_heads;
  a.q_lora_rank = config.q_lora_rank;
  a.kv_lora_rank = config.kv_lora_rank;
  a.qk_nope_head_dim = config.qk_nope_head_dim;
  a.qk_rope_head_dim = config.qk_rope_head_dim;
  a.v_head_dim = config.v_head_dim;
  a.n_kv_heads = config.n_kv_heads;
  a.head_dim = config.is_grouped() ? config.qk_head_dim() : 0;
  a.sliding_window = config.sliding_window;
  a.n_sliding_layers = config.sliding_layers.size();
  a.n_experts = config.n_experts;
  a.experts_per_token = config.experts_per_token;
  a.n_shared_experts = config.n_shared_experts;
  a.moe_intermediate_size = config.moe_intermediate_size;
  a.shared_intermediate_size = config.shared_intermediate_size();
  a.intermediate_size = config.intermediate_size;
  return a;
}

bool splits_kv_heads(const Architecture& a) {
  return a.attention == AttentionKind::kGqa && !a.whole_kv;
}

Result<void> check(const Architecture& a) {
  TRY(check_sizes(a));
  if (a.experts_per_token > a.n_experts) {
    return invalid_input(fmt::format("model {}: experts_per_token = {} of {} experts", a.name,
                                     a.experts_per_token, a.n_experts));
  }
  if (a.n_dense_layers >= a.n_layers) {
    return invalid_input(fmt::format(
        "model {}: {} of {} layers are dense; a Mixture-of-Experts model has layers with experts",
        a.name, a.n_dense_layers, a.n_layers));
  }
  if (a.n_sliding_layers > a.n_layers) {
    return invalid_input(fmt::format("model {}: sliding_layers = {} of {} layers", a.name,
                                     a.n_sliding_layers, a.n_layers));
  }
  if (a.attention == AttentionKind::kGqa && a.n_heads % a.n_kv_heads != 0) {
    return invalid_input(fmt::format("model {}: {} heads do not divide among {} kv_heads", a.name,
                                     a.n_heads, a.n_kv_heads));
  }
  return {};
}

double parameters_of(const Architecture& a, Part part) {
  const double hidden = as_double(a.hidden_size);
  switch (part) {
    case Part::kAttention:
      return attention_parameters(a);
    case Part::kAttentionSmall:
      return small_attention_parameters(a);
    case Part::kRouter:
      return hidden * as_double(a.n_experts);
    case Part::kShared: {
      const std::size_t width = a.shared_intermediate_size != 0
                                    ? a.shared_intermediate_size
                                    : a.n_shared_experts * a.moe_intermediate_size;
      return 3.0 * hidden * as_double(width);
    }
    case Part::kRouted:
      return 3.0 * hidden * as_double(a.moe_intermediate_size);
    case Part::kDense:
      return 3.0 * hidden * as_double(a.intermediate_size);
    case Part::kHead:
      return hidden * as_double(a.vocab_size);
    case Part::kEmbedding:
      return a.tied_embedding ? 0.0 : hidden * as_double(a.vocab_size);
  }
  CHECK(false);
  return 0.0;
}

std::size_t layers_with(const Architecture& a, Part part) {
  switch (part) {
    case Part::kAttention:
    case Part::kAttentionSmall:
      return a.n_layers;
    case Part::kRouter:
    case Part::kShared:
    case Part::kRouted:
      return a.n_layers - a.n_dense_layers;
    case Part::kDense:
      return a.n_dense_layers;
    case Part::kHead:
    case Part::kEmbedding:
      return 1;
  }
  CHECK(false);
  return 0;
}

double stored_bytes(const Model& model, Part part) {
  const Architecture& a = model.architecture;
  const double copies = part == Part::kRouted ? as_double(a.n_experts) : 1.0;
  return parameters_of(a, part) * as_double(layers_with(a, part)) * copies *
         model.quant.of(part).bytes_per_parameter;
}

double stored_bytes(const Model& model) {
  double sum = 0.0;
  for (std::size_t i = 0; i < kParts; ++i) sum += stored_bytes(model, static_cast<Part>(i));
  return sum;
}

double read_bytes(const Model& model, Part part) {
  const Architecture& a = model.architecture;
  if (part == Part::kEmbedding) return 0.0;
  const double active = part == Part::kRouted ? as_double(a.experts_per_token) : 1.0;
  return parameters_of(a, part) * as_double(layers_with(a, part)) * active *
         model.quant.of(part).bytes_per_parameter;
}

double read_bytes(const Model& model) {
  double sum = 0.0;
  for (std::size_t i = 0; i < kParts; ++i) sum += read_bytes(model, static_cast<Part>(i));
  return sum;
}

double kv_bytes_per_token(const Model& model) {
  return kv_elements(model.architecture) * as_double(model.architecture.n_layers) *
         model.quant.kv_bytes_per_element;
}

double kv_kept_bytes(const Model& model, std::size_t context) {
  if (!model.architecture.whole_kv) return kv_bytes(model, context);
  return kv_bytes_per_token(model) * as_double(context);
}

double kv_bytes(const Model& model, std::size_t context) {
  return kv_elements(model.architecture) * keys_seen(model.architecture, context) *
         model.quant.kv_bytes_per_element;
}

double flops_per_token(const Architecture& a) {
  double parameters = 0.0;
  for (std::size_t i = 0; i < kParts; ++i) {
    const Part part = static_cast<Part>(i);
    if (part == Part::kEmbedding) continue;
    const double active = part == Part::kRouted ? as_double(a.experts_per_token) : 1.0;
    parameters += parameters_of(a, part) * as_double(layers_with(a, part)) * active;
  }
  return 2.0 * parameters;
}

double attention_flops(const Architecture& a, std::size_t context) {
  // Absorbed MLA scores against the latent and its rope part, then sums latents.
  const double per_key = a.attention == AttentionKind::kMla
                             ? 2.0 * as_double(2 * a.kv_lora_rank + a.qk_rope_head_dim)
                             : 4.0 * as_double(a.head_dim);
  return per_key * as_double(a.n_heads) * keys_seen(a, context);
}

double prefill_attention_flops(const Architecture& a, std::size_t context) {
  const double per_key =
      a.attention == AttentionKind::kMla
          ? 2.0 * as_double(a.qk_nope_head_dim + a.qk_rope_head_dim + a.v_head_dim)
          : 4.0 * as_double(a.head_dim);
  return per_key * as_double(a.n_heads) * keys_seen(a, context);
}

}  // namespace conclave::plan
