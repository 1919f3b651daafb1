// Sizes of the matrices, from the config alone.
#pragma once

#include "model/model.h"

namespace conclave::model {

struct MatrixShape {
  std::size_t rows = 0;
  std::size_t cols = 0;
};

MatrixShape shape_of(const ModelConfig& config, Weight weight);
std::size_t norm_size(const ModelConfig& config, Norm norm);

// Whether a layer has this weight; kEmbedding and kHead belong to no layer.
bool layer_has(const ModelConfig& config, LayerId layer, Weight weight);
bool layer_has(const ModelConfig& config, Norm norm);     // all layers alike; kFinal: none
bool has_bias(const ModelConfig& config, Weight weight);  // wherever a layer has the weight

}  // namespace conclave::model
