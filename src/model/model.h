// What a checkpoint is: its configuration, the names and shapes of its tensors, how it is sliced.
//
//   auto source = TRY(model::ModelSource::open("models/ember"));
//   kernels::SourceMatrix q_b = source.matrix(LayerId{3}, model::Weight::kQB);
//
// Opening checks the config and every tensor's name, type and shape, the values of norms and router
// biases and, below kCheckAtOpenBytes, those of all matrices (no NaN, no infinity). What is wrong
// is an error that names file, tensor, found and expected. Access then cannot fail; the values of a
// larger checkpoint's matrices are first read by ModelSource::check, which its loader calls.
// Threads: immutable after open.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kernels/kernels.h"

namespace conclave::model {

using kernels::Range;

enum class RouterKind : std::uint8_t {
  kSigmoidBiased,       // noaux_tc: sigmoid, selection bias, optional groups (V3, Kimi)
  kSoftmaxGreedy,       // V2-Lite, Qwen3, Mixtral, gpt-oss
  kSoftmaxGroupLimited  // V2
};

struct RopeConfig {
  double theta = 10000.0;
  bool yarn = false;
  double factor = 1.0;
  double original_max_positions = 4096.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 1.0;
  double mscale_all_dim = 0.0;
  bool truncate = true;                    // round the ends of the ramp to whole dimensions
  std::optional<double> attention_factor;  // replaces the ratio of the mscales on cos and sin
  bool operator==(const RopeConfig&) const = default;
};

// docs/models.md section 1; names as in config.json. Sizes in elements.
struct ModelConfig {
  std::string architecture;  // "DeepseekV3ForCausalLM"
  std::string model_type;    // "kimi_k2"
  std::size_t vocab_size = 0;
  std::size_t hidden_size = 0;
  std::size_t n_layers = 0;
  std::size_t n_dense_layers = 0;           // first_k_dense_replace
  std::size_t moe_layer_freq = 1;           // decoder_sparse_step
  std::size_t moe_layer_shift = 0;          // MoE where (layer + shift) % freq == 0
  std::vector<std::uint16_t> dense_layers;  // mlp_only_layers: dense besides, ascending
  std::size_t intermediate_size = 0;
  std::size_t moe_intermediate_size = 0;
  std::size_t n_experts = 0;
  std::size_t n_shared_experts = 0;
  std::size_t experts_per_token = 0;
  std::size_t n_group = 1;
  std::size_t topk_group = 1;
  RouterKind router = RouterKind::kSigmoidBiased;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1.0f;
  std::size_t n_heads = 0;
  // Latent attention (MLA) keeps one latent for all heads. Grouped-query attention (GQA) has this
  // many heads of keys and values; then qk_head_dim() = v_head_dim = head_dim, of which the rope
  // part comes first, and the two ranks are 0.
  std::size_t n_kv_heads = 0;   // 0: latent
  std::size_t q_lora_rank = 0;  // 0: one q_proj instead of q_a, q_b
  std::size_t kv_lora_rank = 0;
  std::size_t qk_nope_head_dim = 0;
  std::size_t qk_rope_head_dim = 0;
  std::size_t v_head_dim = 0;
  bool rope_interleaved = true;
  bool qk_norm = false;            // RMSNorm of each head's query and key, before RoPE
  bool attention_bias = false;     // of q, k and v
  bool all_biases = false;         // of o, the router and the experts too
  bool attention_sinks = false;    // one more score a head in the softmax, without a value
  std::size_t sliding_window = 0;  // what `sliding_layers` see, the position itself in it
  std::vector<std::uint16_t> sliding_layers;  // ascending
  float swiglu_limit = 0.0f;  // above 0: gpt-oss's clamped activation. docs/models.md 2.8
  float rms_norm_eps = 1e-6f;
  float inner_norm_eps = 1e-6f;  // q_a_layernorm, kv_a_layernorm: docs/models.md 2.1
  RopeConfig rope;
  std::size_t max_positions = 0;
  std::vector<std::uint32_t> eos_token_ids;

  bool is_moe(LayerId layer) const {
    return layer.value >= n_dense_layers && (layer.value + moe_layer_shift) % moe_layer_freq == 0 &&
           !std::ranges::binary_search(dense_layers, layer.value);
  }
  bool is_grouped() const { return n_kv_heads > 0; }
  // How many positions back from a row, itself in it, attention looks.
  std::size_t window(LayerId layer) const {
    return std::ranges::binary_search(sliding_layers, layer.value) ? sliding_window : SIZE_MAX;
  }
  std::size_t n_moe_layers() const;
  std::size_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  std::size_t kv_width() const {  // values cached per token and layer
    return is_grouped() ? n_kv_heads * (qk_head_dim() + v_head_dim)
                        : kv_lora_rank + qk_rope_head_dim;
  }
  std::size_t shared_intermediate_size() const { return n_shared_experts * moe_intermediate_size; }
};

// `config.json` of a checkpoint folder, nested `text_config` included (docs/models.md 1.1), or
// what the metadata of a GGUF file say (5.7).
Result<ModelConfig> read_config(const std::filesystem::path& path);
// The same from text; `label` names the source in errors.
Result<ModelConfig> parse_config(std::string_view json, std::string_view label);

// Rotary frequencies [qk_rope_head_dim / 2] and the two YaRN factors. docs/models.md section 3.
struct RopeTable {
  std::vector<double> inv_freq;
  double rotation_scale = 1.0;  // multiplies cos and sin
  double softmax_scale = 1.0;   // head_dim^-0.5 with YaRN's mscale squared in it
};
RopeTable rope_table(const ModelConfig& config);

enum class Weight : std::uint8_t {
  kQ,       // [heads * qk_head_dim, hidden], only without q_lora
  kQA,      // [q_lora, hidden]
  kQB,      // [heads * qk_head_dim, q_lora]
  kKvA,     // [kv_lora + rope, hidden]
  kKvB,     // [heads * (nope + v), kv_lora]
  kK,       // [kv_heads * qk_head_dim, hidden], only grouped
  kV,       // [kv_heads * v, hidden], only grouped
  kO,       // [hidden, heads * v]
  kRouter,  // [experts, hidden]
  // Dense layers: [intermediate, hidden] twice, [hidden, intermediate]
  kGate,
  kUp,
  kDown,
  // [shared_intermediate, hidden] twice, [hidden, shared_intermediate]
  kSharedGate,
  kSharedUp,
  kSharedDown,
  // [moe_intermediate, hidden] twice, [hidden, moe_intermediate]
  kExpertGate,
  kExpertUp,
  kExpertDown,
  // [vocab, hidden]
  kEmbedding,
  kHead,
};

constexpr bool is_expert(Weight weight) {
  return weight == Weight::kExpertGate || weight == Weight::kExpertUp ||
         weight == Weight::kExpertDown;
}

// kQ and kK: of each head, [qk_head_dim]; only with qk_norm.
enum class Norm : std::uint8_t { kInput, kPostAttention, kQA, kKvA, kQ, kK, kFinal };

// Stands for a whole range whose size the slice need not know.
inline constexpr Range kAll{0, SIZE_MAX};
constexpr bool contains(Range range, std::size_t i) { return range.begin <= i && i < range.end; }

// One routed expert of one layer.
struct LayerExpert {
  LayerId layer;
  ExpertId expert;
  constexpr auto operator<=>(const LayerExpert&) const = default;
};

// Which part of the model one rank holds. A zero-width range is legal. docs/design.md 3.
struct Slice {
  Range heads;            // of n_heads
  Range expert_columns;   // of moe_intermediate_size, in units of 32
  Range shared_columns;   // of shared_intermediate_size, in units of 32
  Range dense_columns;    // of intermediate_size, in units of 32
  Range vocab;            // of vocab_size, in units of 32; lm_head rows
  bool embedding = true;  // only rank 0 holds the embedding
  Range experts = kAll;   // strategy `expert`: the routed experts that it has, all their columns
  Range layers = kAll;    // strategy `pipeline`: the layers that it has at all
  // Strategy `expert`: copies of experts that others have in `experts`; ascending, each once.
  std::vector<LayerExpert> replicas = {};
  static Slice whole(const ModelConfig& config);
  bool holds(LayerId layer, ExpertId expert) const;  // own or as a replica
  bool operator==(const Slice&) const = default;
};
// Whether the ranges lie within the model and on unit boundaries: of a slice that somebody sent.
// Everything else CHECKs it.
Result<void> check_slice(const ModelConfig& config, const Slice& slice);

struct MatrixSlice {
  Range rows;
  Range cols;
};
// The rows and columns of one matrix that a slice needs.
MatrixSlice slice_of(const ModelConfig& config, const Slice& slice, Weight weight);

enum class WeightsMode : std::uint8_t;
struct FileRange;
struct ModelReport;

class ModelSource {
 public:
  // `path`: a folder with config.json and safetensors, one with a GGUF file or set, or a GGUF file.
  static Result<ModelSource> open(const std::filesystem::path& path);

  ModelSource(ModelSource&&) noexcept;
  ModelSource& operator=(ModelSource&&) noexcept;
  ~ModelSource();

  const ModelConfig& config() const;
  const std::filesystem::path& path() const;  // as it was opened
  std::filesystem::path dir() const;          // the folder that the files lie in

  // Whether `matrix` may be called so. Any values are legal.
  bool has(LayerId layer, Weight weight, ExpertId expert = {}) const;
  // `layer` is ignored for kEmbedding and kHead, `expert` for all but kExpert*.
  // CHECKs that the model has this weight (e.g. no kRouter in a dense layer).
  kernels::SourceMatrix matrix(LayerId layer, Weight weight, ExpertId expert = {}) const;
  std::vector<float> norm(LayerId layer, Norm norm) const;  // layer ignored for kFinal
  std::vector<float> router_bias(LayerId layer) const;      // zeros when the model has none
  // What is added to the product of a matrix, one value a row; empty when the model has none.
  std::vector<float> bias(LayerId layer, Weight weight, ExpertId expert = {}) const;
  std::vector<float> sinks(LayerId layer) const;  // [heads]; empty when the model has none

  // The files and the name behind a matrix, for errors: "x.safetensors:
  // model.layers.0.mlp.up_proj".
  std::string label(LayerId layer, Weight weight, ExpertId expert = {}) const;
  // What only reading the weight's bytes shows: NaN and infinity in plain weights, `check_scales`,
  // and weight_shape. Opening did it for checkpoints below kCheckAtOpenBytes, and this returns at
  // once; of larger ones the loader checks the rows that it reads, because opening would have to
  // read the disk twice.
  Result<void> check(LayerId layer, Weight weight, ExpertId expert, Range rows) const;

  // Releases the file pages behind some rows of a matrix; call after packing them.
  void drop(const kernels::SourceMatrix& matrix, Range rows) const;

  std::uint64_t file_bytes() const;
  // A hash of config.json, the tensor table (names, shapes, types), the first 64 bytes of every
  // tensor, all norms and biases: changes when the checkpoint does, also between two
  // trainings of one architecture.
  std::uint64_t fingerprint() const;
  std::vector<std::string> ignored_tensors() const;  // by the named list: MTP, vision, ...

 private:
  friend ModelReport inspect(const ModelSource& source, WeightsMode mode);
  friend Result<std::vector<FileRange>> skeleton(const ModelSource& source);
  struct State;
  explicit ModelSource(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

inline constexpr std::uint64_t kCheckAtOpenBytes = std::uint64_t{1} << 30;

// No scale is NaN or infinite and no FP8 weight is NaN; reads all scales, and all weights of FP8.
// Scales and offsets of MLX and of packed matrices are below 2^118, so that weights are finite.
// `label` as ModelSource::label gives it; `first_row`: where the matrix begins in that of the file.
Result<void> check_scales(const kernels::SourceMatrix& matrix, std::string_view label,
                          std::size_t first_row = 0);

// Some bytes of one of the files of a checkpoint folder.
struct FileRange {
  std::string file;  // its name in the folder
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t file_bytes = 0;  // of the whole file
  bool operator==(const FileRange&) const = default;
};
// All that ModelSource::open, its fingerprint and the tokenizer need, without the matrices: a
// folder of sparse files with these ranges filled opens like the whole one. By file and offset, no
// two ranges of a file adjacent. Some 60 MB for Kimi K2. A machine that gets its weights from a
// peer has such a folder.
Result<std::vector<FileRange>> skeleton(const ModelSource& source);

// The choice of `--weights`.
enum class WeightsMode : std::uint8_t {
  kNative,  // keep each tensor's own values
  kInt8,    // floats become int8, groups of 32; not router and embedding
  kInt4,    // the same, but most of it int4: not the head, nor what makes keys and values
};
inline constexpr std::array<std::string_view, 3> kWeightsModes = {"native", "int8", "int4"};
Result<WeightsMode> parse_weights_mode(std::string_view text);
std::string_view name(WeightsMode mode);  // "native"

// The kept format of a matrix. The router stays float32; the embedding keeps its values, being read
// one row at a time.
kernels::PackedFormat kept_format(Weight weight, kernels::SourceFormat source, WeightsMode mode);

// A sub-matrix to be packed, or its transpose.
struct MatrixPart {
  kernels::SourceMatrix matrix;
  Range rows, cols;
  bool transposed = false;
};
// The same part of what holds its bytes: of a split kv_b one head's keys, which lie transposed
// there already, or its values. Any other part of a split kv_b has none.
std::optional<MatrixPart> stored_part(const MatrixPart& part);
// Whether it neither cuts nor turns groups of kernels::kGroup inputs.
bool is_in_groups(const MatrixPart& stored);
// The kept format of a stored part: where it cuts the source's groups or turns them, they are not
// kept.
kernels::PackedFormat kept_format(Weight weight, const MatrixPart& stored, WeightsMode mode);

// For `conclave model inspect` and the planner: bytes kept and bytes read per decoded token.
struct PartBytes {
  std::string part;    // "routed experts", "attention", ...
  std::string format;  // "int4", "bf16", or several joined by "+"
  std::uint64_t parameters = 0;
  std::uint64_t file_bytes = 0;
  std::uint64_t kept_bytes = 0;
  std::uint64_t read_per_token = 0;  // batch 1, excluding the KV cache
};
struct ModelReport {
  std::vector<PartBytes> parts;
  std::uint64_t kv_bytes_per_token = 0;  // BF16, all layers
};
ModelReport inspect(const ModelSource& source, WeightsMode mode);

}  // namespace conclave::model
