// What a hub says of a model, and what we keep of it.
#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>

#include "hub/hub.h"

namespace conclave::hub {
namespace {

using nlohmann::json;

constexpr std::size_t kFilesMax = 4096;
constexpr std::uint64_t kFileBytesMax = std::uint64_t{1} << 44;
constexpr std::uint64_t kGitBytesMax = std::uint64_t{64} << 20;  // of files without a SHA-256

constexpr std::array<std::string_view, 8> kNeeded = {
    "config.json",    "generation_config.json",  "tokenizer.json",      "tokenizer_config.json",
    "tiktoken.model", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
};

bool is_hex(std::string_view text, std::size_t size) {
  const auto digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return text.size() == size && std::ranges::all_of(text, digit);
}

Error bad(const std::string& what) { return invalid_input("list of files: " + what); }

Result<json> parse_object(std::string_view text) {
  json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object()) return bad("not a JSON object");
  return parsed;
}

std::string text_of(const json& object, std::string_view field) {
  const auto found = object.find(field);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

Result<std::uint64_t> size_of(const json& object, const std::string& name) {
  const auto found = object.find("size");
  if (found == object.end() || !found->is_number_unsigned() ||
      found->get<std::uint64_t>() > kFileBytesMax) {
    return bad(name + ": no size, or one beyond any file");
  }
  return found->get<std::uint64_t>();
}

Result<Digest> checked_digest(const std::string& name, Digest::Kind kind, std::string hex) {
  if (!is_hex(hex, kind == Digest::Kind::kSha256 ? 64 : 40)) return bad(name + ": no hash");
  return Digest{kind, std::move(hex)};
}

// Large files have the SHA-256 of their content, small ones git's hash alone.
Result<FileEntry> read_sibling(const json& sibling, const std::string& name) {
  FileEntry entry{.name = name, .size = 0, .digest = {}};
  const auto lfs = sibling.find("lfs");
  if (lfs != sibling.end() && lfs->is_object()) {
    entry.size = TRY(size_of(*lfs, name));
    entry.digest = TRY(checked_digest(name, Digest::Kind::kSha256, text_of(*lfs, "sha256")));
    return entry;
  }
  entry.size = TRY(size_of(sibling, name));
  // SHA-1 is no proof for weights.
  if (entry.size > kGitBytesMax || name.ends_with(".safetensors")) {
    return bad(name + ": no SHA-256");
  }
  entry.digest = TRY(checked_digest(name, Digest::Kind::kGitBlob, text_of(sibling, "blobId")));
  return entry;
}

// Some makers publish the weights a second time, as consolidated*.safetensors: loaders read those
// that an index or the plain name stands for.
void drop_second_copies(std::vector<FileEntry>& files) {
  const auto is_model = [](const FileEntry& file) {
    return file.name.starts_with("model") && file.name.ends_with(".safetensors");
  };
  if (std::ranges::none_of(files, is_model)) return;
  std::erase_if(files, [&](const FileEntry& file) {
    return file.name.ends_with(".safetensors") && !is_model(file);
  });
}

// What any list must be before a byte is written for it.
Result<void> check(const Manifest& manifest) {
  if (manifest.files.size() > kFilesMax) return bad("more than 4096 files");
  std::set<std::string_view> names;
  bool has_config = false;
  bool has_weights = false;
  for (const FileEntry& file : manifest.files) {
    if (!is_plain(file.name)) return bad("\"" + file.name + "\" is no plain file name");
    if (!names.insert(file.name).second) return bad(file.name + " stands there twice");
    has_config |= file.name == "config.json";
    has_weights |= file.name.ends_with(".safetensors");
  }
  if (!has_config) return bad("no config.json: not a model in Hugging Face's layout");
  if (!has_weights) return bad("no .safetensors: the weights come in another format");
  return {};
}

}  // namespace

Result<ModelName> parse_model_name(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash != text.npos) {
    const ModelName name{std::string(text.substr(0, slash)), std::string(text.substr(slash + 1))};
    const bool reserved = name.name.ends_with(".partial") || name.name.ends_with(".lock");
    if (is_plain(name.org) && is_plain(name.name) && text.size() <= 192 && !reserved) return name;
  }
  return invalid_input("\"" + std::string(text.substr(0, 80)) +
                       "\": name a model as ORG/NAME, such as Qwen/Qwen3-30B-A3B");
}

bool has_plain_letters(std::string_view text) {
  return std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
  });
}

bool is_plain(std::string_view name) {
  return !name.empty() && name.size() <= 190 && name.front() != '.' && has_plain_letters(name);
}

bool is_needed(std::string_view name) {
  return std::ranges::find(kNeeded, name) != kNeeded.end() || name.ends_with(".safetensors") ||
         name.ends_with(".safetensors.index.json");
}

Result<Manifest> parse_listing(std::string_view text) {
  const json listed = TRY(parse_object(text));
  Manifest manifest;
  manifest.revision = text_of(listed, "sha");
  if (!is_hex(manifest.revision, 40)) return bad("no commit");
  const auto siblings = listed.find("siblings");
  if (siblings == listed.end() || !siblings->is_array()) return bad("no files");
  for (const json& sibling : *siblings) {
    const std::string name = sibling.is_object() ? text_of(sibling, "rfilename") : "";
    if (!is_plain(name) || !is_needed(name)) continue;  // folders, images, other formats
    manifest.files.push_back(TRY(read_sibling(sibling, name)));
  }
  drop_second_copies(manifest.files);
  TRY(check(manifest));
  return manifest;
}

Result<Manifest> parse_manifest(std::string_view text) {
  const json kept = TRY(parse_object(text));
  Manifest manifest;
  manifest.source = text_of(kept, "source");
  manifest.revision = text_of(kept, "revision");
  const auto files = kept.find("files");
  if (files == kept.end() || !files->is_array()) return bad("no files");
  for (const json& file : *files) {
    if (!file.is_object()) return bad("an entry that is no object");
    FileEntry entry{.name = text_of(file, "name"), .size = 0, .digest = {}};
    const bool sha256 = file.contains("sha256");
    const auto kind = sha256 ? Digest::Kind::kSha256 : Digest::Kind::kGitBlob;
    // Not within the braces: a return out of them would leave the name behind.
    entry.size = TRY(size_of(file, entry.name));
    entry.digest = TRY(checked_digest(entry.name, kind, text_of(file, sha256 ? "sha256" : "git")));
    manifest.files.push_back(std::move(entry));
  }
  TRY(check(manifest));
  return manifest;
}

std::string to_json(const Manifest& manifest) {
  nlohmann::ordered_json out;
  out["source"] = manifest.source;
  out["revision"] = manifest.revision;
  out["files"] = json::array();
  for (const FileEntry& file : manifest.files) {
    const char* kind = file.digest.kind == Digest::Kind::kSha256 ? "sha256" : "git";
    out["files"].push_back({{"name", file.name}, {"size", file.size}, {kind, file.digest.hex}});
  }
  // A folder's name may be no UTF-8.
  return out.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace conclave::hub
