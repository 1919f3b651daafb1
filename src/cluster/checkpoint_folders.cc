#include "cluster/checkpoint_folders.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "formats/formats.h"

namespace conclave::cluster {

namespace {

// A folder with a config.json, or the GGUF sets in it.
std::vector<std::filesystem::path> checkpoints_right_in(const std::filesystem::path& dir) {
  std::error_code ignored;
  if (std::filesystem::exists(dir / "config.json", ignored)) return {dir};
  return formats::gguf_sets_in(dir);
}

}  // namespace

std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& dir) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(dir, ignored)) return {dir};
  std::vector<std::filesystem::path> found = checkpoints_right_in(dir);
  if (found == std::vector{dir}) return found;
  std::filesystem::directory_iterator entry(dir, ignored);
  for (; !ignored && entry != std::filesystem::directory_iterator(); entry.increment(ignored)) {
    std::error_code unreadable;
    if (!entry->is_directory(unreadable)) continue;
    const std::vector<std::filesystem::path> below = checkpoints_right_in(entry->path());
    found.insert(found.end(), below.begin(), below.end());
  }
  std::ranges::sort(found);
  return found;
}

std::vector<model::ModelSource> open_checkpoints(const std::vector<std::filesystem::path>& dirs) {
  std::vector<model::ModelSource> sources;
  for (const std::filesystem::path& dir : dirs) {
    for (const std::filesystem::path& checkpoint : checkpoints_in(dir)) {
      Result<model::ModelSource> source = model::ModelSource::open(checkpoint);
      if (source) {
        sources.push_back(std::move(source).value());
      } else {
        spdlog::warn("checkpoint left out folder={} reason=\"{}\"", checkpoint.string(),
                     source.error().message);
      }
    }
  }
  return sources;
}

}  // namespace conclave::cluster
