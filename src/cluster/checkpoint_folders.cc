#include "cluster/checkpoint_folders.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "formats/formats.h"

namespace conclave::cluster {

namespace {

// A folder with a config.json or a GGUF file, or such a file.
bool is_checkpoint(const std::filesystem::path& path) {
  std::error_code ignored;
  if (path.extension() == ".gguf") return std::filesystem::is_regular_file(path, ignored);
  if (std::filesystem::exists(path / "config.json", ignored)) return true;
  const auto gguf = formats::find_gguf(path);
  return !gguf || gguf->has_value();
}

}  // namespace

std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& dir) {
  std::error_code ignored;
  if (is_checkpoint(dir)) return {dir};
  std::vector<std::filesystem::path> found;
  std::filesystem::directory_iterator entry(dir, ignored);
  for (; !ignored && entry != std::filesystem::directory_iterator(); entry.increment(ignored)) {
    std::error_code unreadable;
    if (entry->is_directory(unreadable) && is_checkpoint(entry->path())) {
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
