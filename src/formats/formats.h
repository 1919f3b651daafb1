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
};

std::string_view name(DType dtype);   // as safetensors spells it: "BF16"
std::size_t size_bytes(DType dtype);  // of one element

// A tensor inside a mapped shard. `bytes` is exactly shape x dtype, not aligned to anything.
struct Tensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;
  const MappedFile* file = nullptr;  // owned by the Checkpoint
};

std::string shape_text(std::span<const std::size_t> shape);  // "[2048, 896]"

// The header of one safetensors file, checked: every range inside the file, dtype x shape equal to
// its length, no overlap, no gap, no duplicate name. docs/models.md 4.1.
// `label` names the file in errors.
Result<std::vector<Tensor>> parse_safetensors(std::span<const std::byte> file,
                                              std::string_view label);

// All tensors of a checkpoint folder: `model.safetensors.index.json` with its shards, or a single
// `model.safetensors`. The index and the shards must agree tensor by tensor.
class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::filesystem::path& dir);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const Tensor* find(std::string_view name) const;  // nullptr when absent
  std::span<const Tensor> tensors() const;          // sorted by name
  std::uint64_t total_bytes() const;                // of all tensors

  // The tensor's source pages are not needed again (its bytes stay readable).
  void drop(std::span<const std::byte> bytes) const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::formats
