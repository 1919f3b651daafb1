#include "cluster/checkpoint_folders.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <system_error>
#include <utility>

namespace conclave::cluster {

std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& dir) {
  std::error_code ignored;
  if (std::filesystem::exists(dir / "config.json", ignored)) return {dir};
  std::vector<std::filesystem::path> found;
  std::filesystem::directory_iterator entry(dir, ignored);
  for (; !ignored && entry != std::filesystem::directory_iterator(); entry.increment(ignored)) {
    std::error_code unreadable;
    if (std::filesystem::exists(entry->path() / "config.json", unreadable)) {
      found.push_back(entry->path());
    }
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
