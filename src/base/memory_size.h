// How much memory this process may use.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

namespace conclave {

// The machine's physical memory, or the limit of the process's control group (a container, a
// systemd unit) where that is smaller. nullopt where the system says neither.
std::optional<std::uint64_t> memory_size_bytes();

// The smallest memory limit among the control groups that `groups` names and those above them.
// `groups` is the text of /proc/self/cgroup, `mount` the folder of the groups: version 2, or
// version 1 below `mount`/memory. nullopt: no limit.
std::optional<std::uint64_t> memory_limit_bytes(std::string_view groups,
                                                const std::filesystem::path& mount);

}  // namespace conclave
