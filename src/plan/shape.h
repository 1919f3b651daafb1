// The model as the planner sees it: bytes and arithmetic of each part. docs/perf-model.md 2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/model.h"

namespace conclave::plan {

// How a rank's kernels see a matrix: each format has its own speed.
enum class Format : std::uint8_t { kInt4, kInt8, kFp8, kBf16, kF32 };
inline constexpr std::size_t kFormats = 5;
std::string_view name_of(Format format);  // "int4"

// The parts of a model that differ in how ranks share them. docs/perf-model.md 2.
enum class Part : std::uint8_t {
  kAttention,       // split by heads: q_b (or q), kv_b, o; GQA: q and o, k and v where by KV head
  kAttentionSmall,  // every rank holds it whole: q_a, kv_a; GQA: k and v where not by KV head
  kRouter,          // every rank that routes holds it whole
  kShared,          // shared experts, split by columns
  kRouted,          // routed experts
  kDense,           // MLP of the layers without experts, split by columns
  kHead,            // lm_head, split by vocabulary
  kEmbedding,       // rank 0 alone; read one row a token
};
inline constexpr std::size_t kParts = 8;
std::string_view name_of(Part part);  // "routed experts"

enum class AttentionKind : std::uint8_t { kMla, kGqa };

// A configuration in the words of config.json; sizes in elements. 0 where a family has no such.
struct Architecture {
  std::string name;
  AttentionKind attention = AttentionKind::kMla;
  std::size_t n_layers = 0;
  std::size_t n_dense_layers = 0;
  std::size_t hidden_size = 0;
  std::size_t vocab_size = 0;
  std::size_t n_heads = 0;
  // MLA
  std::size_t q_lora_rank = 0;  // 0: one q_proj
  std::size_t kv_lora_rank = 0;
  std::size_t qk_nope_head_dim = 0;
  std::size_t qk_rope_head_dim = 0;
  std::size_t v_head_dim = 0;
  // GQA
  std::size_t n_kv_heads = 0;
  // Every rank makes and keeps all KV heads, every layer all positions: as the software does it.
  bool whole_kv = false;
  std::size_t head_dim = 0;
  std::size_t sliding_window = 0;    // tokens; 0: none
  std::size_t n_sliding_layers = 0;  // layers that see only the window
  // Feed-forward
  std::size_t n_experts = 0;
  std::size_t experts_per_token = 0;
  std::size_t n_shared_experts = 0;
  std::size_t moe_intermediate_size = 0;
  std::size_t shared_intermediate_size = 0;  // of all shared experts; 0: n_shared * moe
  std::size_t intermediate_size = 0;         // of a dense layer
  bool tied_embedding = false;               // lm_head is the embedding
};
Architecture architecture_of(const model::ModelConfig& config, std::string name);
// Errors: a size that is missing, zero or beyond what any model has; more experts per token than
// experts; no experts at all.
Result<void> check(const Architecture& architecture);
// Whether KV heads are divided among ranks.
bool splits_kv_heads(const Architecture& architecture);

// Bytes per parameter of each part, scales and biases included.
struct PartFormat {
  Format format = Format::kBf16;
  double bytes_per_parameter = 2.0;
  bool scale_only = false;  // groups of 32 with a scale and no bias: some software adds one
};
struct Quant {
  std::string name;  // "shipped"
  std::array<PartFormat, kParts> parts{};
  double kv_bytes_per_element = 2.0;
  PartFormat& of(Part part) { return parts[static_cast<std::size_t>(part)]; }
  const PartFormat& of(Part part) const { return parts[static_cast<std::size_t>(part)]; }
};

struct Model {
  Architecture architecture;
  Quant quant;
};

// Parameters of one layer (kRouted: of one expert; kHead, kEmbedding: of the model).
double parameters_of(const Architecture& architecture, Part part);
// How many layers have the part; 1 for kHead and kEmbedding.
std::size_t layers_with(const Architecture& architecture, Part part);
// Kept in memory, the whole model.
double stored_bytes(const Model& model, Part part);
double stored_bytes(const Model& model);
// Read per decoded token at batch 1, without the KV cache. kEmbedding reads nothing to speak of.
double read_bytes(const Model& model, Part part);
double read_bytes(const Model& model);
// KV cache of one token, all layers; what a step reads of `context` tokens; what they take, all
// positions of every layer or, with sliding layers, their window.
double kv_bytes_per_token(const Model& model);
double kv_kept_bytes(const Model& model, std::size_t context);
double kv_bytes(const Model& model, std::size_t context);
// Multiply-adds count as two. Weights only: 2 * active parameters.
double flops_per_token(const Architecture& architecture);
// Attention over `context` cached tokens for one new token, all layers and heads; MLA absorbed.
double attention_flops(const Architecture& architecture, std::size_t context);
// The same with keys and values decompressed, as long prompts are computed.
double prefill_attention_flops(const Architecture& architecture, std::size_t context);
// Distinct experts of a layer that `tokens` tokens choose, on average; Zipf exponent `zipf`.
double distinct_experts(const Architecture& architecture, std::size_t tokens, double zipf);

}  // namespace conclave::plan
