// Locks, staging folders and free space of the store. Private to hub/.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "hub/hub.h"

namespace conclave::hub {

inline constexpr std::string_view kManifestName = "conclave-manifest.json";

// Held until it goes; a second holder gets an error at once.
Result<FileDescriptor> lock_model(const std::filesystem::path& dir, const ModelName& name);

std::filesystem::path partial_of(const std::filesystem::path& dir);

// The error says how much is missing.
Result<void> check_space(const std::filesystem::path& dir, std::uint64_t needed);

std::uint64_t folder_bytes(const std::filesystem::path& dir);
// Of one that cannot be read: as far as it could.
std::vector<std::filesystem::path> entries_of(const std::filesystem::path& dir);
// 0 where there is no such file.
std::uint64_t file_bytes(const std::filesystem::path& file);

// All of `bytes`, where the file stands; else false, and errno says why.
bool write_all(int fd, std::span<const std::byte> bytes);
// By way of a second name, and on the disk before it is seen: a reader meets the old text or the
// new.
Result<void> write_whole(const std::filesystem::path& file, const std::string& text);
Result<std::optional<Manifest>> read_manifest(const std::filesystem::path& dir);
Result<void> rename_to(const std::filesystem::path& from, const std::filesystem::path& to);
// `whole` takes the name `dir`, and what had it is gone afterwards. At no moment is neither there.
Result<void> replace_folder(const std::filesystem::path& whole, const std::filesystem::path& dir);

}  // namespace conclave::hub
