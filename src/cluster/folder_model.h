// A checkpoint folder as the planner's model.
#pragma once

#include <filesystem>

#include "base/result.h"
#include "model/model.h"
#include "plan/plan.h"

namespace conclave::cluster {

// Bytes per part come from the tensors of the folder's safetensors; a folder with config.json alone
// is taken as its `quantization_config` says.
Result<plan::Model> read_folder_model(const std::filesystem::path& dir, model::WeightsMode mode);

}  // namespace conclave::cluster
