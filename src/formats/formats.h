// Checkpoint files: untrusted bytes in, checked views out.
//
//   auto checkpoint = TRY(formats::Checkpoint::open("models/ember"));
//   const formats::Tensor* norm = checkpoint.find("model.norm.weight");
//
// Limits: header 100 MB a shard, 4,096 shards, 4,000,000 tensors, 8 dimensions, names of 512 bytes.
// Threads: a Checkpoint is immutable after open; `find` may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"

namespace conclave::formats {

enum class DType : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  // Blocks of GGUF, in no safetensors. docs/models.md 5.6
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4K,
  kQ5K,
  kQ6K,
  kIq4Nl,
  kIq4Xs,
  kGgufMxfp4,
};

std::string_view name(DType dtype);     // as safetensors spells it: "BF16"
std::size_t size_bytes(DType dtype);    // of one element, or of one block
std::size_t block_inputs(DType dtype);  // elements in a block; else 1

// A tensor inside a mapped shard. `bytes` is exactly shape x dtype, not aligned to anything.
struct Tensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;
  const MappedFile* file = nullptr;  // owned by the Checkpoint
  std::string stored_name = {};      // in the file, where it has another than `name`

  std::string_view name_in_file() const { return stored_name.empty() ? name : stored_name; }
};

std::string shape_text(std::span<const std::size_t> shape);  // "[2048, 896]"

// The header of one safetensors file, checked: every range inside the file, dtype x shape equal to
// its length, no overlap, no gap, no duplicate name. docs/models.md 4.1.
// `label` names the file in errors.
Result<std::vector<Tensor>> parse_safetensors(std::span<const std::byte> file,
                                              std::string_view label);

// All tensors of a checkpoint folder: `model.safetensors.index.json` with its shards, or a single
// `model.safetensors`, of which index and shards must agree tensor by tensor; or those of a GGUF
// file or set, under the names that MLX's safetensors give them (`name_from_gguf`).
class Checkpoint {
 public:
  struct File {
    const MappedFile* file = nullptr;
    std::size_t header_bytes = 0;  // up to the first tensor's bytes
  };
  static Result<Checkpoint> open(const std::filesystem::path& path);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const Tensor* find(std::string_view name) const;  // nullptr when absent
  std::span<const Tensor> tensors() const;          // sorted by name
  std::uint64_t total_bytes() const;                // of all tensors
  bool is_gguf() const;
  std::vector<File> files() const;  // also those without a tensor

  // The tensor's source pages are not needed again (its bytes stay readable).
  void drop(std::span<const std::byte> bytes) const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// ---- GGUF, version 2 and 3. docs/models.md 5.5
//
//   if (const auto gguf = TRY(formats::open_gguf("models/qwen.gguf"))) {
//     const std::uint64_t layers = TRY(gguf->count("qwen3moe.block_count"));
//   }
//
// Limits: 65,536 entries of metadata, lists of 16,777,216, text of 16 MB, keys of 65,535
// bytes, names of tensors of 512, 4 dimensions, 4,096 files.

// As the format numbers them.
enum class GgufType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

// One value, or a list of values that are no lists.
struct GgufValue {
  GgufType type = GgufType::kU8;
  GgufType element = GgufType::kU8;  // of a list
  std::uint64_t count = 0;           // of a list
  std::span<const std::byte> bytes;  // of the value or of the elements; text without its length
};

struct GgufEntry {
  std::string_view key;  // in the file
  GgufValue value;
};

// One file, parsed and checked: every range inside it, no overlap, no key twice.
struct GgufFile {
  std::vector<GgufEntry> metadata;  // sorted by key
  std::vector<Tensor> tensors;      // names as in the file
  std::size_t header_bytes = 0;     // up to the data
};
// `label` names the file in errors.
Result<GgufFile> parse_gguf(std::span<const std::byte> file, std::string_view label);

// The file or the parts of one that a path means: a .gguf file, with its siblings where its name
// ends in -00001-of-0000N, or the one set in a folder without safetensors. Nothing when the folder
// has none; an error when it has several, or lacks a part. Files with a vision projector
// (mmproj-*) do not count.
Result<std::optional<std::vector<std::filesystem::path>>> find_gguf(
    const std::filesystem::path& path);

// The first file of each GGUF set in a folder, by name.
std::vector<std::filesystem::path> gguf_sets_in(const std::filesystem::path& dir);

// The folder that the files of a model lie in: `path` itself, or that of a file.
std::filesystem::path folder_of(const std::filesystem::path& path);

// What to call a model: the folder's name, or the file's without "-00001-of-00003.gguf".
std::string model_name(const std::filesystem::path& path);

// What the files say, without their tensors' data.
class Gguf {
 public:
  static Result<Gguf> open(const std::vector<std::filesystem::path>& files);

  const GgufValue* find(std::string_view key) const;  // nullptr when absent
  // Errors name file and key, and say what was expected.
  Result<std::uint64_t> count(std::string_view key) const;
  Result<std::optional<std::uint64_t>> count_if_there(std::string_view key) const;
  Result<std::optional<double>> number_if_there(std::string_view key) const;
  Result<std::optional<bool>> flag_if_there(std::string_view key) const;
  Result<std::optional<std::string>> text_if_there(std::string_view key) const;
  Result<std::vector<std::string_view>> texts(std::string_view key) const;  // empty when absent
  Result<std::vector<std::int64_t>> integers(std::string_view key) const;   // empty when absent
  Result<std::vector<float>> floats(std::string_view key) const;            // empty when absent

  const std::string& label() const { return label_; }  // the first file's name
  std::span<const std::size_t> header_bytes() const { return header_bytes_; }
  // Of all files, names as in the files.
  std::span<const Tensor> tensors() const { return tensors_; }
  bool has_tensor(std::string_view name) const;
  // Hands over what keeps the tensors' bytes alive.
  std::vector<MappedFile> take_files() && { return std::move(files_); }

 private:
  Error bad(std::string_view key, std::string_view expected) const;  // says what is found

  std::string label_;
  std::vector<MappedFile> files_;
  std::vector<std::size_t> header_bytes_;  // of each file
  std::vector<GgufEntry> metadata_;        // of the first file
  std::vector<Tensor> tensors_;
};

// The name that the same tensor has in a safetensors checkpoint of MLX ("model.layers.3.mlp.
// switch_mlp.up_proj.weight"); the name itself where there is none.
std::string name_from_gguf(std::string_view name);

// The files that find_gguf finds, opened.
Result<std::optional<Gguf>> open_gguf(const std::filesystem::path& path);

// The ids that the tokenizer's metadata give for the end of a text, turn or message.
Result<std::vector<std::uint64_t>> end_token_ids(const Gguf& gguf);

// Whether a model's general.name or general.basename is Kimi K2.5's or a later one's, which differ
// from K2's in what no key says.
Result<bool> is_later_kimi(const Gguf& gguf);

}  // namespace conclave::formats
