#include "model/report.h"

#include <array>
#include <set>
#include <utility>

#include "model/names.h"
#include "model/shapes.h"

namespace conclave::model {
namespace {

enum class Part : std::uint8_t {
  kEmbedding,
  kAttention,
  kDense,
  kShared,
  kRouted,
  kRouter,
  kNorms,
  kHead,
};
constexpr std::array<std::string_view, 8> kPartNames = {
    "embedding",      "attention", "dense FFN", "shared experts",
    "routed experts", "router",    "norms",     "head"};

Part part_of(Weight weight) {
  if (weight <= Weight::kO) return Part::kAttention;
  if (weight == Weight::kRouter) return Part::kRouter;
  if (weight <= Weight::kDown) return Part::kDense;
  if (weight <= Weight::kSharedDown) return Part::kShared;
  if (weight <= Weight::kExpertDown) return Part::kRouted;
  return weight == Weight::kEmbedding ? Part::kEmbedding : Part::kHead;
}

// Weights and scales, without INT4's weight_shape, which says nothing new.
std::uint64_t file_bytes_of(const kernels::SourceMatrix& matrix) {
  const std::uint64_t count = std::uint64_t{matrix.rows} * matrix.cols;
  const auto blocks = [](std::uint64_t size) {
    return (size + kernels::kFp8BlockSize - 1) / kernels::kFp8BlockSize;
  };
  switch (matrix.format) {
    case kernels::SourceFormat::kF32:
      return count * 4;
    case kernels::SourceFormat::kF16:
    case kernels::SourceFormat::kBF16:
      return count * 2;
    case kernels::SourceFormat::kFp8Block:
      return count + 4 * blocks(matrix.rows) * blocks(matrix.cols);
    case kernels::SourceFormat::kMxfp4:
      return count / 2 + count / kernels::kGroup;
    case kernels::SourceFormat::kInt4Group:
      return count / 2 + count / kernels::kGroup * 2;
    default:
      return matrix.weights.size() + matrix.scales.size() + matrix.offsets.size();
  }
}

class Summer {
 public:
  Summer(const ModelConfig& config, WeightsMode mode) : config_(config), mode_(mode) {}

  void add(Weight weight, const kernels::SourceMatrix& matrix) {
    if (matrix.heads != nullptr) {
      add_rows(weight, matrix.heads->key_up, matrix.heads->key_up.rows, false);
      add_rows(weight, matrix.heads->value_up, matrix.heads->value_up.rows, false);
    } else if (weight == Weight::kKvB) {  // W_uk is kept as its transpose
      const std::size_t keys = config_.n_heads * config_.qk_nope_head_dim;
      add_rows(weight, matrix, keys, true);
      add_rows(weight, matrix, matrix.rows - keys, false);
    } else {
      add_rows(weight, matrix, matrix.rows, false);
    }
    at(part_of(weight)).file_bytes +=
        matrix.heads == nullptr
            ? file_bytes_of(matrix)
            : file_bytes_of(matrix.heads->key_up) + file_bytes_of(matrix.heads->value_up);
  }

  void add_rows(Weight weight, const kernels::SourceMatrix& matrix, std::size_t rows,
                bool transposed) {
    const MatrixPart part_of_matrix{matrix, {0, rows}, {0, matrix.cols}, transposed};
    const kernels::PackedFormat format = kept_format(weight, part_of_matrix, mode_);
    const std::uint64_t kept = kernels::packed_bytes(format, rows, matrix.cols, 0);
    PartBytes& part = at(part_of(weight));
    part.parameters += std::uint64_t{rows} * matrix.cols;
    part.kept_bytes += kept;
    formats_[static_cast<std::size_t>(part_of(weight))].insert(format);
  }

  void add_vectors(Part where, std::uint64_t count, std::uint64_t file_bytes) {
    PartBytes& part = at(where);
    part.parameters += count;
    part.file_bytes += file_bytes;
    part.kept_bytes += count * sizeof(float);
    formats_[static_cast<std::size_t>(where)].insert(kernels::PackedFormat::kF32);
  }

  ModelReport finish() && {
    ModelReport report;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      PartBytes& part = parts_[i];
      if (part.parameters == 0) continue;
      part.part = kPartNames[i];
      for (const kernels::PackedFormat format : formats_[i]) {
        if (!part.format.empty()) part.format += '+';
        part.format += kernels::name(format);
      }
      part.read_per_token = read_of(static_cast<Part>(i), part.kept_bytes);
      report.parts.push_back(std::move(part));
    }
    report.kv_bytes_per_token = 2 * config_.kv_width() * config_.n_layers;
    return report;
  }

 private:
  PartBytes& at(Part part) { return parts_[static_cast<std::size_t>(part)]; }

  std::uint64_t read_of(Part part, std::uint64_t kept) const {
    if (part == Part::kEmbedding) return kept / config_.vocab_size;
    if (part == Part::kRouted) return kept / config_.n_experts * config_.experts_per_token;
    return kept;
  }

  const ModelConfig& config_;
  WeightsMode mode_;
  std::array<PartBytes, kPartNames.size()> parts_;
  std::array<std::set<kernels::PackedFormat>, kPartNames.size()> formats_;
};

}  // namespace

ModelReport report(const ModelConfig& config, const MatrixOf& matrix_of, VectorBytes vector_bytes,
                   WeightsMode mode) {
  Summer summer(config, mode);
  summer.add(Weight::kEmbedding, matrix_of({}, Weight::kEmbedding, {}));
  summer.add(Weight::kHead, matrix_of({}, Weight::kHead, {}));
  std::uint64_t n_norms = norm_size(config, Norm::kFinal);
  std::uint64_t n_biases = 0;
  std::uint64_t n_expert_biases = 0;
  for (std::size_t i = 0; i < config.n_layers; ++i) {
    const LayerId layer{static_cast<std::uint16_t>(i)};
    for (std::size_t w = 0; w < kWeights; ++w) {
      const auto weight = static_cast<Weight>(w);
      if (!layer_has(config, layer, weight)) continue;
      const std::size_t count = is_expert(weight) ? config.n_experts : 1;
      const std::uint64_t biases =
          has_bias(config, weight) ? count * shape_of(config, weight).rows : 0;
      (is_expert(weight) ? n_expert_biases : n_norms) += biases;
      for (std::size_t e = 0; e < count; ++e) {
        summer.add(weight, matrix_of(layer, weight, ExpertId{static_cast<std::uint16_t>(e)}));
      }
    }
    for (std::size_t n = 0; n < static_cast<std::size_t>(Norm::kFinal); ++n) {
      const auto norm = static_cast<Norm>(n);
      if (layer_has(config, norm)) n_norms += norm_size(config, norm);
    }
    if (config.attention_sinks) n_norms += config.n_heads;
    const bool selects_with_bias =
        config.is_moe(layer) && config.router == RouterKind::kSigmoidBiased;
    if (selects_with_bias) n_biases += config.n_experts;
  }
  summer.add_vectors(Part::kNorms, n_norms, vector_bytes.norms);
  if (n_expert_biases > 0) {
    summer.add_vectors(Part::kRouted, n_expert_biases, vector_bytes.expert_biases);
  }
  if (n_biases > 0) summer.add_vectors(Part::kRouter, n_biases, vector_bytes.router_biases);
  return std::move(summer).finish();
}

}  // namespace conclave::model
