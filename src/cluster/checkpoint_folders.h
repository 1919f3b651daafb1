// The checkpoints that a machine has.
#pragma once

#include <filesystem>
#include <vector>

#include "model/model.h"

namespace conclave::cluster {

// `dir` itself if it is a GGUF file or has a config.json; else the GGUF files in it, a split one by
// a part of it, and the checkpoints in its folders; by name.
std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& dir);

// All that open. The others are logged.
std::vector<model::ModelSource> open_checkpoints(const std::vector<std::filesystem::path>& dirs);

}  // namespace conclave::cluster
