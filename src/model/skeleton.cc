#include "model/skeleton.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>

namespace conclave::model {
namespace {

using formats::Tensor;

// Taken whole, where they are there: configuration, tokenizer, template.
constexpr std::array<std::string_view, 9> kWholeFiles = {
    "chat_template.jinja",    "chat_template.json",      "config.json",
    "generation_config.json", "special_tokens_map.json", "tiktoken.model",
    "tokenizer.json",         "tokenizer_config.json",   "model.safetensors.index.json",
};

Result<void> add_whole_files(const std::filesystem::path& dir, std::vector<FileRange>& ranges) {
  for (const std::string_view name : kWholeFiles) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(dir / name, error)) continue;
    const std::uintmax_t size = std::filesystem::file_size(dir / name, error);
    if (error) return unavailable((dir / name).string() + ": " + error.message());
    ranges.push_back({std::string(name), 0, size, size});
  }
  return {};
}

// The first `bytes` of what lies at `at` in a shard.
FileRange range_in(const MappedFile& file, const std::byte* at, std::size_t bytes) {
  return {file.path().filename().string(), static_cast<std::uint64_t>(at - file.bytes().data()),
          bytes, file.bytes().size()};
}

// Joins what touches or overlaps.
std::vector<FileRange> merged(std::vector<FileRange> ranges) {
  std::ranges::sort(ranges, [](const FileRange& a, const FileRange& b) {
    return std::tie(a.file, a.offset) < std::tie(b.file, b.offset);
  });
  std::vector<FileRange> out;
  for (FileRange& range : ranges) {
    if (out.empty() || out.back().file != range.file ||
        range.offset > out.back().offset + out.back().bytes) {
      out.push_back(std::move(range));
      continue;
    }
    FileRange& last = out.back();
    last.bytes = std::max(last.bytes, range.offset + range.bytes - last.offset);
  }
  return out;
}

}  // namespace

Result<std::vector<FileRange>> skeleton_of(const std::filesystem::path& dir,
                                           const formats::Checkpoint& checkpoint,
                                           const TensorTable& table) {
  std::vector<FileRange> ranges;
  // A GGUF file says all itself; what lies beside it may be of another model.
  if (!checkpoint.is_gguf()) TRY(add_whole_files(dir, ranges));
  for (const formats::Checkpoint::File& file : checkpoint.files()) {
    ranges.push_back(range_in(*file.file, file.file->bytes().data(), file.header_bytes));
  }

  const auto add = [&ranges](const Tensor& tensor, std::size_t bytes_max) {
    ranges.push_back(
        range_in(*tensor.file, tensor.bytes.data(), std::min(tensor.bytes.size(), bytes_max)));
  };
  for (const Tensor& tensor : checkpoint.tensors())
    add(tensor, kHashedBytes);  // any weight_shape is in them
  for (const Tensor* vector : table.vectors()) add(*vector, vector->bytes.size());
  return merged(std::move(ranges));
}

}  // namespace conclave::model
