// Models on this machine's disk: fetched from a hub in Hugging Face's layout, or taken from a
// folder; checked by hash; listed, verified, removed.
//
//   Store/ORG/NAME/           a whole model, every file of it checked: appears by one rename
//   Store/ORG/NAME.partial/   one that is on its way, taken up again by the same call
//   Store/ORG/NAME.lock       held while one process changes it
//
// Only folders with a manifest are the store's: others are neither listed, replaced nor removed.
// Nothing that comes from a hub is trusted before its hash is right: names, sizes, redirects.
// Threads: every function may be called from any thread; two on one model meet at its lock.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace conclave::hub {

// "ORG/NAME", as hubs name models.
struct ModelName {
  std::string org;
  std::string name;
  std::string text() const { return org + "/" + name; }
};
// Each part of letters, digits, '.', '_' and '-', not beginning with '.'; at most 192 bytes.
Result<ModelName> parse_model_name(std::string_view text);

struct Digest {
  enum class Kind : std::uint8_t { kSha256, kGitBlob };  // git's SHA-1, of small files
  Kind kind = Kind::kSha256;
  std::string hex;
  bool operator==(const Digest&) const = default;
};

struct FileEntry {
  std::string name;
  std::uint64_t size = 0;
  Digest digest;
  bool operator==(const FileEntry&) const = default;
};

// `conclave-manifest.json` in a model's folder: what it should hold, and where that came from.
struct Manifest {
  std::string source;    // the hub's address, or the folder
  std::string revision;  // the hub's commit; empty of a folder
  std::vector<FileEntry> files;
};

// A hub's answer about one model, cut down to the files that are needed: configuration, tokenizer,
// template, safetensors. Errors: not JSON of that shape, a name that is no plain file name, no
// config.json or no weights, beyond the limits.
Result<Manifest> parse_listing(std::string_view json);
Result<Manifest> parse_manifest(std::string_view json);
std::string to_json(const Manifest& manifest);
// Whether a file of this name belongs to what a model needs.
bool is_needed(std::string_view name);
// Letters, digits, '.', '_' and '-' alone: nothing of it has to be escaped in a path.
bool has_plain_letters(std::string_view text);
// The same, not empty, not long and not beginning with '.'.
bool is_plain(std::string_view name);

// Bytes done and in all. False stops the work; what is there already stays for the next time.
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

struct PullRequest {
  std::string endpoint = "https://huggingface.co";
  std::string token;  // sent to the endpoint's host alone
  std::string revision = "main";
  std::size_t connections = 4;
  long stall_seconds = 60;     // without 1 kB/s for so long, a connection is given up
  double retry_seconds = 1.0;  // before the second try; doubled each time, up to a minute
  std::size_t tries = 8;       // of one file without real progress
};

struct PullReport {
  std::filesystem::path dir;
  std::uint64_t fetched_bytes = 0;
  bool was_there = false;
};

struct StoredModel {
  ModelName name;
  std::filesystem::path dir;
  std::uint64_t bytes = 0;
  bool complete = true;  // else on its way
};

class Store {
 public:
  explicit Store(std::filesystem::path root) : root_(std::move(root)) {}

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path dir_of(const ModelName& name) const;

  // Errors: another process works on the model, the disk is too small, the hub refuses, a file
  // that has a wrong hash twice.
  Result<PullReport> pull(const ModelName& name, const PullRequest& request,
                          const Progress& progress) const;
  // Copies a model's files, and hashes them on the way.
  Result<PullReport> add(const ModelName& name, const std::filesystem::path& from,
                         const Progress& progress) const;
  std::vector<StoredModel> list() const;  // by name
  // The files that are missing or have another hash, each with what is wrong.
  Result<std::vector<std::string>> verify(const ModelName& name, const Progress& progress) const;
  // Also one on its way. Returns the bytes given back.
  Result<std::uint64_t> remove(const ModelName& name) const;

 private:
  std::filesystem::path root_;
};

}  // namespace conclave::hub
