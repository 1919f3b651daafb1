// Which bytes of a checkpoint's files opening needs.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "model/table.h"

namespace conclave::model {

inline constexpr std::size_t kHashedBytes = 64;  // of every tensor, for the fingerprint

Result<std::vector<FileRange>> skeleton_of(const std::filesystem::path& dir,
                                           const formats::Checkpoint& checkpoint,
                                           const TensorTable& table);

}  // namespace conclave::model
