#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <system_error>

#include "formats/dtype.h"
#include "formats/formats.h"

namespace conclave::formats {
namespace {

namespace fs = std::filesystem;

// "name-00002-of-00003.gguf"
struct SplitName {
  std::string base;  // "name"
  std::size_t number = 0;
  std::size_t total = 0;
};

std::optional<std::size_t> five_digits(std::string_view text) {
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.size() != 5 || error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return number;
}

std::optional<SplitName> split_name(std::string_view file) {
  constexpr std::string_view kSuffix = ".gguf";
  constexpr std::string_view kBetween = "-of-";
  constexpr std::size_t kTail = 1 + 5 + kBetween.size() + 5;  // "-00002-of-00003"
  if (!file.ends_with(kSuffix)) return std::nullopt;
  file.remove_suffix(kSuffix.size());
  if (file.size() <= kTail) return std::nullopt;
  const std::string_view tail = file.substr(file.size() - kTail);
  const auto number = five_digits(tail.substr(1, 5));
  const auto total = five_digits(tail.substr(tail.size() - 5));
  if (tail[0] != '-' || tail.substr(6, kBetween.size()) != kBetween || !number || !total) {
    return std::nullopt;
  }
  if (*number < 1 || *number > *total) return std::nullopt;
  return SplitName{std::string(file.substr(0, file.size() - kTail)), *number, *total};
}

std::string part_name(const SplitName& name, std::size_t number) {
  const auto digits = [](std::size_t value) {
    const std::string text = std::to_string(value);
    return std::string(5 - std::min<std::size_t>(5, text.size()), '0') + text;
  };
  return name.base + "-" + digits(number) + "-of-" + digits(name.total) + ".gguf";
}

Result<std::vector<fs::path>> with_siblings(const fs::path& file) {
  const std::optional<SplitName> name = split_name(file.filename().string());
  if (!name) return std::vector<fs::path>{file};
  if (name->total == 0 || name->total > kShardsMax) {
    return invalid_input(file.filename().string() + ": " + std::to_string(name->total) +
                         " parts, expected 1 to " + std::to_string(kShardsMax));
  }
  std::vector<fs::path> files;
  for (std::size_t i = 1; i <= name->total; ++i) {
    const fs::path part = file.parent_path() / part_name(*name, i);
    std::error_code ignored;
    if (!fs::is_regular_file(part, ignored)) {
      return not_found(file.parent_path().string() + ": " + part.filename().string() +
                       " is missing; " + std::to_string(name->total) + " parts are needed");
    }
    files.push_back(part);
  }
  return files;
}

bool has_safetensors(const fs::path& dir) {
  std::error_code ignored;
  return fs::exists(dir / "model.safetensors", ignored) ||
         fs::exists(dir / "model.safetensors.index.json", ignored);
}

// Projectors of images, heads that guess further tokens, statistics: no models of their own.
bool is_other(std::string_view name) {
  constexpr std::array<std::string_view, 2> kPrefixes = {"mmproj", "mtp-"};
  return !name.ends_with(".gguf") || name.find("imatrix") != name.npos ||
         std::ranges::any_of(kPrefixes, [name](std::string_view p) { return name.starts_with(p); });
}

}  // namespace

fs::path folder_of(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored) || path.extension() != ".gguf") return path;
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

std::string model_name(const fs::path& path) {
  std::error_code ignored;
  if (folder_of(path) != path) {
    const std::string file = path.filename().string();
    const std::optional<SplitName> split = split_name(file);
    return split ? split->base : path.stem().string();
  }
  const std::string name = fs::weakly_canonical(path, ignored).filename().string();
  return name.empty() ? "model" : name;
}

std::vector<fs::path> gguf_sets_in(const fs::path& dir) {
  std::map<std::string, fs::path> sets;  // by the name of the first part
  std::error_code error;
  fs::directory_iterator entry(dir, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::error_code unreadable;
    if (is_other(name) || !entry->is_regular_file(unreadable)) continue;
    const std::optional<SplitName> split = split_name(name);
    sets.emplace(split ? part_name(*split, 1) : name, entry->path());
  }
  std::vector<fs::path> out;
  for (const auto& [first, file] : sets) out.push_back(file);
  return out;
}

Result<std::optional<std::vector<fs::path>>> find_gguf(const fs::path& path) {
  using Files = std::optional<std::vector<fs::path>>;
  std::error_code error;
  if (fs::is_regular_file(path, error)) {
    if (path.extension() != ".gguf") {
      return invalid_input(path.string() + ": expected a folder or a .gguf file");
    }
    return Files(TRY(with_siblings(path)));
  }
  if (has_safetensors(path)) return Files();
  const std::vector<fs::path> sets = gguf_sets_in(path);
  if (sets.empty()) return Files();
  if (sets.size() > 1) {
    return invalid_input(path.string() + ": " + std::to_string(sets.size()) +
                         " models in .gguf files; name the file that is meant, as " +
                         sets.front().filename().string());
  }
  return Files(TRY(with_siblings(sets.front())));
}

}  // namespace conclave::formats
