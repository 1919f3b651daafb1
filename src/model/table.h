// The tensors of a checkpoint, checked against the config and put where the model wants them.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/formats.h"
#include "model/names.h"

namespace conclave::model {

// One matrix. The tensors belong to the Checkpoint.
struct Linear {
  const formats::Tensor* weights = nullptr;  // nullptr: the model has no such matrix
  const formats::Tensor* scales = nullptr;
  const formats::Tensor* shape = nullptr;  // INT4's weight_shape, where the file has one
  kernels::SourceMatrix matrix;
};

struct LayerTable {
  std::array<Linear, static_cast<std::size_t>(Weight::kExpertGate)> linears;  // by Weight
  std::vector<Linear> experts;  // [expert * 3 + weight - kExpertGate]
  std::array<const formats::Tensor*, static_cast<std::size_t>(Norm::kFinal)> norms{};
  const formats::Tensor* router_bias = nullptr;
  std::array<const formats::Tensor*, static_cast<std::size_t>(Weight::kExpertGate)> biases{};
  const formats::Tensor* sinks = nullptr;
  // Of gate, up and down of all experts: [experts, rows]; gate and up may be one tensor, in turns.
  std::array<const formats::Tensor*, 3> expert_biases{};
  bool biases_in_turns = false;

  // The tensors behind expert_biases, each once.
  std::vector<const formats::Tensor*> expert_bias_tensors() const;
};

struct TensorTable {
  std::vector<LayerTable> layers;
  Linear embedding;
  Linear head;
  bool tied_head = false;  // `head` is `embedding`
  const formats::Tensor* final_norm = nullptr;
  std::vector<std::unique_ptr<kernels::HeadMatrices>> heads;  // that matrices point to
  std::vector<std::string> ignored;

  const Linear& linear(LayerId layer, Weight weight, ExpertId expert) const;
  // Norms and biases: what is read at open anyway. The final norm, then layer by layer.
  std::vector<const formats::Tensor*> vectors() const;
};

// Every tensor is either in the table, with the type and shape that the config asks for, or on the
// named list; anything else is an error. Values are not read.
Result<TensorTable> build_table(const Description& description,
                                const formats::Checkpoint& checkpoint);

// "model-00002-of-00004.safetensors: model.norm.weight"
std::string label_of(const formats::Tensor& tensor);
std::string label_of(const Linear& linear);

// The first NaN or infinity of a BF16, F16 or F32 matrix, as a position in row-major order.
std::optional<std::size_t> first_not_finite(const kernels::SourceMatrix& matrix);
inline bool is_mlx(const kernels::SourceMatrix& matrix) {
  return matrix.format == kernels::SourceFormat::kMlx4 ||
         matrix.format == kernels::SourceFormat::kMlx8;
}
// Some rows of a matrix as a matrix, widened to whole FP8 blocks: `first_row` says where it begins.
// Zero points, which lie across the rows, stay those of the whole: such a band may be checked and
// dropped, not read.
struct RowBand {
  kernels::SourceMatrix matrix;
  std::size_t first_row = 0;
};
RowBand row_band(const kernels::SourceMatrix& matrix, Range rows);
// The same of both halves of a kHeads matrix: those of all heads that the rows touch.
std::array<RowBand, 2> head_bands(const kernels::SourceMatrix& matrix, Range rows);
// weight_shape, when there is one, and of the rows `check_scales` and, where they are plain,
// `first_not_finite`.
Result<void> check_values(const Linear& linear, Range rows);
Result<void> check_values(const Linear& linear);  // all rows
// One value of a BF16, F16 or F32 tensor.
float float_at(const formats::Tensor& tensor, std::size_t index);
// A norm or bias as float32; NaN and infinite values are errors.
Result<std::vector<float>> read_vector(const formats::Tensor& tensor);

}  // namespace conclave::model
