#include "base/memory_size.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "base/mapped_file.h"

namespace conclave {
namespace {

constexpr std::size_t kFileBytesMax = std::size_t{64} << 10;

// The smaller of the two that are known.
std::optional<std::uint64_t> smaller(std::optional<std::uint64_t> a,
                                     std::optional<std::uint64_t> b) {
  if (a && b) return std::min(*a, *b);
  return a ? a : b;
}

// nullopt also for "max", which is version 2's word for no limit. Version 1 says a number near
// 2^63, which every machine's memory is below.
std::optional<std::uint64_t> number_in(const std::filesystem::path& path) {
  const Result<std::string> text = read_text_file(path, kFileBytesMax);
  if (!text) return std::nullopt;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

// The limit of a group holds for all groups inside it. Inside a container `group` may be the path
// on the host, which is not mounted there: the container's own limit then stands at `root`.
std::optional<std::uint64_t> limit_along(const std::filesystem::path& root, std::string_view group,
                                         const char* file) {
  std::optional<std::uint64_t> limit = number_in(root / file);
  std::filesystem::path folder = root;
  for (const std::filesystem::path& part : std::filesystem::path(group).relative_path()) {
    if (part == "..") break;  // a group outside the mounted ones
    folder /= part;
    limit = smaller(limit, number_in(folder / file));
  }
  return limit;
}

// Whether the comma-separated `list` has `name`.
bool has_name(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == name) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

std::optional<std::uint64_t> physical_memory_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_bytes <= 0) return std::nullopt;
  return static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes);
}

}  // namespace

// Lines are "ID:CONTROLLERS:GROUP"; version 2 has one, with no controllers: "0::GROUP".
std::optional<std::uint64_t> memory_limit_bytes(std::string_view groups,
                                                const std::filesystem::path& mount) {
  std::optional<std::uint64_t> limit;
  while (!groups.empty()) {
    const std::size_t line_end = std::min(groups.find('\n'), groups.size());
    const std::string_view line = groups.substr(0, line_end);
    groups.remove_prefix(std::min(line_end + 1, groups.size()));
    const std::size_t first = line.find(':');
    if (first == line.npos) continue;
    const std::size_t second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string_view group = line.substr(second + 1);
    if (controllers.empty()) {
      limit = smaller(limit, limit_along(mount, group, "memory.max"));
    } else if (has_name(controllers, "memory")) {
      limit = smaller(limit, limit_along(mount / "memory", group, "memory.limit_in_bytes"));
    }
  }
  return limit;
}

std::optional<std::uint64_t> memory_size_bytes() {
  const Result<std::string> groups = read_text_file("/proc/self/cgroup", kFileBytesMax);
  if (!groups) return physical_memory_bytes();
  return smaller(physical_memory_bytes(), memory_limit_bytes(*groups, "/sys/fs/cgroup"));
}

}  // namespace conclave
