// The tensors of a checkpoint, taken one by one: plain ones, and matrices in whatever format the
// file has them. Which one it is, the names and types of the tensors say. docs/models.md 5.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "formats/formats.h"
#include "model/description.h"
#include "model/shapes.h"
#include "model/table.h"

namespace conclave::model {

inline constexpr std::array kPlainTypes = {formats::DType::kBF16, formats::DType::kF16,
                                           formats::DType::kF32};

// Takes tensors out of a checkpoint and knows, at the end, what nobody took.
class TensorTaker {
 public:
  explicit TensorTaker(const formats::Checkpoint& checkpoint)
      : checkpoint_(checkpoint), taken_(checkpoint.tensors().size(), false) {}

  using Shape = std::vector<std::size_t>;

  const formats::Tensor* find(const std::string& name) const { return checkpoint_.find(name); }
  bool is_gguf() const { return checkpoint_.is_gguf(); }
  // Errors name file, tensor, found and expected.
  Result<const formats::Tensor*> take(const std::string& name,
                                      std::span<const formats::DType> dtypes, const Shape& shape);
  // A tensor that may be there and is not wanted.
  void leave(const std::string& name);
  // All that is left must be on the named list; returns it.
  Result<std::vector<std::string>> sort_out_the_rest(const Description& description) const;

 private:
  void mark(const formats::Tensor& tensor);  // as taken
  std::string table_of_contents() const;

  const formats::Checkpoint& checkpoint_;
  std::vector<bool> taken_;  // by position in checkpoint_.tensors()
};

// One matrix, or as many of one shape as `stacked` says, one below the other.
class MatrixTaker {
 public:
  MatrixTaker(TensorTaker& tensors, const Description& description)
      : tensors_(tensors), description_(description) {}

  // `name` without ".weight".
  Result<Linear> take(const std::string& name, MatrixShape shape, std::size_t stacked = 0);
  // A tensor of floats or of GGUF's blocks under its whole name.
  Result<Linear> take_plain(const std::string& name, MatrixShape shape, std::size_t stacked = 0);
  bool has(const std::string& name) const;  // in any format

 private:
  Result<Linear> take_packed(const std::string& name, MatrixShape shape);
  QuantScheme scheme_of(const formats::Tensor& words, const formats::Tensor* scales,
                        std::size_t cols) const;
  Result<Linear> take_fp8(const std::string& name, MatrixShape shape);
  Result<Linear> take_mlx(const std::string& name, MatrixShape shape, std::size_t stacked);
  Result<Linear> take_mlx_mxfp4(const std::string& name, MatrixShape shape, std::size_t stacked);

  TensorTaker& tensors_;
  const Description& description_;
};

// Matrix `index` of those that `all` holds, each of `rows` rows.
Linear part_of_stack(const Linear& all, std::size_t index, std::size_t rows);

// kv_b out of its two halves; the Linear points into `heads`.
Linear join_heads(const Linear& key_up, const Linear& value_up, const ModelConfig& config,
                  kernels::HeadMatrices& heads);

}  // namespace conclave::model
