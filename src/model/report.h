// The sums behind `inspect`, from shapes and formats alone: needs no files.
#pragma once

#include <functional>

#include "model/model.h"

namespace conclave::model {

// Only format, rows and cols are looked at.
using MatrixOf = std::function<kernels::SourceMatrix(LayerId, Weight, ExpertId)>;

// As the files hold them, over all layers.
struct VectorBytes {
  std::uint64_t norms = 0;  // and the sinks and biases outside of experts
  std::uint64_t expert_biases = 0;
  std::uint64_t router_biases = 0;
};

ModelReport report(const ModelConfig& config, const MatrixOf& matrix_of, VectorBytes vector_bytes,
                   WeightsMode mode);

}  // namespace conclave::model
