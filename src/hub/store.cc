#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <system_error>

#include "hub/folder.h"
#include "hub/hash.h"

namespace conclave::hub {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPiece = std::size_t{1} << 20;

// What a model needs of a folder, with sizes and, as yet, without hashes. Systems leave files of
// their own on USB disks, whose names begin with a dot.
Result<Manifest> list_folder(const fs::path& from) {
  Manifest manifest;
  std::error_code error;
  manifest.source = fs::absolute(from, error).lexically_normal().string();
  if (!fs::is_directory(from, error)) {
    return not_found(from.string() + ": no such folder, or none that may be read");
  }
  bool has_config = false;
  bool has_weights = false;
  for (const fs::path& entry : entries_of(from)) {
    const std::string name = entry.filename().string();
    if (!fs::is_regular_file(entry, error) || name.starts_with('.') || !is_needed(name)) continue;
    if (!is_plain(name)) {
      return invalid_input(entry.string() +
                           ": a name of other than letters, digits, '.', '_' and '-'");
    }
    manifest.files.push_back({name, file_bytes(entry), {}});
    has_config |= name == "config.json";
    has_weights |= name.ends_with(".safetensors");
  }
  if (!has_config || !has_weights) {
    return invalid_input(from.string() + ": no config.json with .safetensors files in it");
  }
  std::ranges::sort(manifest.files, {}, &FileEntry::name);
  return manifest;
}

// Where the folder says what its files should be, as one from another store does, they must be it.
Result<void> compare(const std::optional<Manifest>& said, const FileEntry& file) {
  if (!said) return {};
  const auto same = std::ranges::find(said->files, file.name, &FileEntry::name);
  const bool known = same != said->files.end() && same->digest.kind == Digest::Kind::kSha256;
  if (!known || same->digest == file.digest) return {};
  return corrupt(file.name + ": damaged: another hash than " + std::string(kManifestName) +
                 " beside it says");
}

// Copies one file and returns its SHA-256; nullopt when stopped.
Result<std::optional<std::string>> copy_file(const fs::path& from, const fs::path& to,
                                             const std::function<bool(std::uint64_t)>& on_bytes) {
  const auto failed = [](const fs::path& path) {
    return unavailable(path.string() + ": " + std::generic_category().message(errno));
  };
  const FileDescriptor in(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in.open()) return failed(from);
  const FileDescriptor out(
      ::open(to.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0644));
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
    if (!write_all(out.get(), bytes)) return failed(to);
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

// Fills in the hashes; returns the bytes copied.
Result<std::uint64_t> copy_all(Manifest& manifest, const std::optional<Manifest>& said,
                               const fs::path& from, const fs::path& to, const Progress& progress) {
  const std::uint64_t total = total_of(manifest);
  std::uint64_t done = 0;
  for (FileEntry& file : manifest.files) {
    const auto hash = TRY(copy_file(from / file.name, to / file.name, [&](std::uint64_t bytes) {
      done += bytes;
      return progress(done, total);
    }));
    if (!hash) return exhausted("stopped");
    file.digest = {Digest::Kind::kSha256, *hash};
    file.size = file_bytes(to / file.name);
    TRY(compare(said, file));
  }
  return done;
}

}  // namespace

fs::path Store::dir_of(const ModelName& name) const { return root_ / name.org / name.name; }

Result<PullReport> Store::add(const ModelName& name, const fs::path& from,
                              const Progress& progress) const {
  const fs::path dir = dir_of(name);
  Manifest manifest = TRY(list_folder(from));
  const FileDescriptor lock = TRY(lock_model(dir, name));
  const fs::path partial = partial_of(dir);
  std::error_code error;
  for (const fs::path& taken : {dir, partial}) {
    if (!fs::exists(taken, error)) continue;
    return invalid_input(name.text() + ": is there already, or on its way: conclave model rm " +
                         name.text() + " takes it away, --name gives another name");
  }
  const auto said = read_manifest(from);
  TRY(check_space(dir.parent_path(), total_of(manifest)));
  fs::create_directories(partial, error);
  if (error) return unavailable(partial.string() + ": " + error.message());
  const Result<std::uint64_t> copied =
      copy_all(manifest, said ? *said : std::nullopt, from, partial, progress);
  if (!copied) {  // from a folder that is there anyway: begun anew next time
    fs::remove_all(partial, error);
    return copied.error();
  }
  TRY(write_whole(partial / kManifestName, to_json(manifest)));
  TRY(rename_to(partial, dir));
  return PullReport{.dir = dir, .fetched_bytes = *copied, .was_there = false};
}

std::vector<StoredModel> Store::list() const {
  constexpr std::string_view kPartial = ".partial";
  std::vector<StoredModel> models;
  for (const fs::path& org : entries_of(root_)) {
    for (const fs::path& entry : entries_of(org)) {
      std::error_code error;
      std::string name = entry.filename().string();
      const bool partial = name.ends_with(kPartial);
      if (!fs::is_directory(entry, error)) continue;
      if (!partial && !fs::exists(entry / kManifestName, error)) continue;
      if (partial) name.resize(name.size() - kPartial.size());
      const auto parsed = parse_model_name(org.filename().string() + "/" + name);
      if (parsed) models.push_back({*parsed, entry, folder_bytes(entry), !partial});
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
  const bool ours = fs::exists(dir / kManifestName, error);
  if (!ours && !fs::exists(partial, error)) {
    return not_found(name.text() + ": no such model here: see conclave model list");
  }
  const FileDescriptor lock = TRY(lock_model(dir, name));
  const std::uint64_t bytes = (ours ? folder_bytes(dir) : 0) + folder_bytes(partial);
  fs::remove_all(partial, error);
  if (error) return unavailable(partial.string() + ": " + error.message());
  if (ours) {  // never a whole model of which half is gone
    TRY(rename_to(dir, partial));
    fs::remove_all(partial, error);
    if (error) return unavailable(partial.string() + ": " + error.message());
  }
  fs::remove(dir.string() + ".lock", error);
  ::rmdir(dir.parent_path().c_str());  // where it was the last of its makers'
  return bytes;
}

}  // namespace conclave::hub
