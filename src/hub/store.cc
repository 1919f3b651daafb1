#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "hub/folder.h"
#include "hub/hash.h"

namespace conclave::hub {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPiece = std::size_t{1} << 20;

// What a model needs of a folder, with sizes and, as yet, without hashes.
Result<Manifest> list_folder(const fs::path& from) {
  Manifest manifest;
  manifest.source = fs::absolute(from).lexically_normal().string();
  std::error_code error;
  bool has_config = false;
  bool has_weights = false;
  for (const auto& entry : fs::directory_iterator(from, error)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file(error) || !is_needed(name)) continue;
    manifest.files.push_back({name, file_bytes(entry.path()), {}});
    has_config |= name == "config.json";
    has_weights |= name.ends_with(".safetensors");
  }
  if (error) return unavailable(from.string() + ": " + error.message());
  if (!has_config || !has_weights) {
    return invalid_input(from.string() + ": no config.json with .safetensors files in it");
  }
  std::ranges::sort(manifest.files, {}, &FileEntry::name);
  return manifest;
}

// Copies one file and returns its SHA-256; nullopt when stopped.
Result<std::optional<std::string>> copy_file(const fs::path& from, const fs::path& to,
                                             const std::function<bool(std::uint64_t)>& on_bytes) {
  const auto failed = [](const fs::path& path) {
    return unavailable(path.string() + ": " + std::generic_category().message(errno));
  };
  const FileDescriptor in(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in.open()) return failed(from);
  const FileDescriptor out(::open(to.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644));
  if (!out.open()) return failed(to);
  Hasher hasher(Digest::Kind::kSha256, 0);
  std::vector<std::byte> piece(kPiece);
  while (true) {
    const ssize_t n = ::read(in.get(), piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(from);
    if (n == 0) break;
    const std::span<const std::byte> bytes(piece.data(), static_cast<std::size_t>(n));
    hasher.add(bytes);
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t written = ::write(out.get(), bytes.data() + done, bytes.size() - done);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return failed(to);
      done += static_cast<std::size_t>(written);
    }
    if (!on_bytes(bytes.size())) return std::optional<std::string>{};
  }
  if (::fsync(out.get()) != 0) return failed(to);
  return std::optional(hasher.hex());
}

std::uint64_t total_of(const Manifest& manifest) {
  std::uint64_t total = 0;
  for (const FileEntry& file : manifest.files) total += file.size;
  return total;
}

}  // namespace

fs::path Store::dir_of(const ModelName& name) const { return root_ / name.org / name.name; }

Result<PullReport> Store::add(const ModelName& name, const fs::path& from,
                              const Progress& progress) const {
  const fs::path dir = dir_of(name);
  const FileDescriptor lock = TRY(lock_model(dir, name));
  Manifest manifest = TRY(list_folder(from));
  std::error_code error;
  if (fs::exists(dir, error)) {
    return invalid_input(name.text() + ": is there already: conclave model rm " + name.text() +
                         " takes it away");
  }
  const fs::path partial = partial_of(dir);
  fs::remove_all(partial, error);
  fs::create_directories(partial, error);
  if (error) return unavailable(partial.string() + ": " + error.message());
  const std::uint64_t total = total_of(manifest);
  TRY(check_space(partial, total));
  std::uint64_t done = 0;
  for (FileEntry& file : manifest.files) {
    const auto hash =
        TRY(copy_file(from / file.name, partial / file.name, [&](std::uint64_t bytes) {
          done += bytes;
          return progress(done, total);
        }));
    if (!hash) return exhausted(name.text() + ": stopped");
    file.digest = {Digest::Kind::kSha256, *hash};
    file.size = file_bytes(partial / file.name);
  }
  TRY(write_whole(partial / kManifestName, to_json(manifest)));
  TRY(rename_to(partial, dir));
  return PullReport{.dir = dir, .fetched_bytes = done, .was_there = false};
}

std::vector<StoredModel> Store::list() const {
  constexpr std::string_view kPartial = ".partial";
  std::vector<StoredModel> models;
  std::error_code error;
  for (const auto& org : fs::directory_iterator(root_, error)) {
    std::error_code unreadable;
    for (const auto& entry : fs::directory_iterator(org.path(), unreadable)) {
      if (!entry.is_directory(unreadable)) continue;
      std::string name = entry.path().filename().string();
      const bool partial = name.ends_with(kPartial);
      if (partial) name.resize(name.size() - kPartial.size());
      auto parsed = parse_model_name(org.path().filename().string() + "/" + name);
      if (!parsed) continue;
      models.push_back({*parsed, entry.path(), folder_bytes(entry.path()), !partial});
    }
  }
  std::ranges::sort(models, {}, [](const StoredModel& model) { return model.dir; });
  return models;
}

Result<std::vector<std::string>> Store::verify(const ModelName& name,
                                               const Progress& progress) const {
  const fs::path dir = dir_of(name);
  const std::optional<Manifest> manifest = TRY(read_manifest(dir));
  if (!manifest) return not_found(name.text() + ": no such model here: see conclave model list");
  const std::uint64_t total = total_of(*manifest);
  std::uint64_t done = 0;
  std::vector<std::string> problems;
  for (const FileEntry& file : manifest->files) {
    std::error_code error;
    if (!fs::exists(dir / file.name, error)) {
      problems.push_back(file.name + ": missing");
      done += file.size;
      continue;
    }
    const std::uint64_t size = file_bytes(dir / file.name);
    if (size != file.size) {
      problems.push_back(file.name + ": " + std::to_string(size) + " bytes, expected " +
                         std::to_string(file.size));
      done += file.size;
      continue;
    }
    const auto hash = TRY(hash_file(dir / file.name, file.digest.kind, [&](std::uint64_t bytes) {
      done += bytes;
      return progress(done, total);
    }));
    if (!hash) return exhausted(name.text() + ": stopped");
    if (*hash != file.digest.hex) problems.push_back(file.name + ": damaged: another hash");
  }
  return problems;
}

Result<std::uint64_t> Store::remove(const ModelName& name) const {
  const fs::path dir = dir_of(name);
  const fs::path partial = partial_of(dir);
  std::error_code error;
  if (!fs::exists(dir, error) && !fs::exists(partial, error)) {
    return not_found(name.text() + ": no such model here: see conclave model list");
  }
  const FileDescriptor lock = TRY(lock_model(dir, name));
  const std::uint64_t bytes = folder_bytes(dir) + folder_bytes(partial);
  for (const fs::path& folder : {dir, partial}) {
    fs::remove_all(folder, error);
    if (error) return unavailable(folder.string() + ": " + error.message());
  }
  fs::remove(dir.string() + ".lock", error);
  fs::remove(dir.parent_path(), error);  // where it was the last of its makers'
  return bytes;
}

}  // namespace conclave::hub
