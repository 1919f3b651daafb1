#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "formats/dtype.h"
#include "formats/formats.h"
#include "formats/index.h"

namespace conclave::formats {
namespace {

constexpr std::string_view kIndexFile = "model.safetensors.index.json";
constexpr std::string_view kSingleFile = "model.safetensors";

bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

const Tensor* find_in(std::span<const Tensor> sorted, std::string_view name) {
  const auto place = std::ranges::lower_bound(
      sorted, name, {}, [](const Tensor& tensor) { return std::string_view(tensor.name); });
  return place != sorted.end() && place->name == name ? &*place : nullptr;
}

// The length stands in the first 8 bytes; of a file that has been parsed.
std::size_t safetensors_header_bytes(std::span<const std::byte> file) {
  std::uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof size);
  return sizeof size + size;
}

// Without an index, the one shard and no entries.
Result<ShardIndex> read_index(const std::filesystem::path& dir) {
  if (!is_there(dir / kIndexFile)) {
    if (is_there(dir / kSingleFile)) return ShardIndex{{std::string(kSingleFile)}, {}};
    return not_found(dir.string() + ": neither " + std::string(kIndexFile) + " nor " +
                     std::string(kSingleFile) + " is there");
  }
  const MappedFile file = TRY(MappedFile::open(dir / kIndexFile));
  ShardIndex index = TRY(parse_index(file.bytes(), kIndexFile));
  // Two sets of weights in one folder: which one is meant is anyone's guess.
  if (is_there(dir / kSingleFile) && !std::ranges::binary_search(index.shards, kSingleFile)) {
    return invalid_input(std::string(kIndexFile) + ": does not name " + std::string(kSingleFile) +
                         ", which is there too; remove one of them");
  }
  return index;
}

// Both ways: no tensor only in the index, none only in a shard, none in another shard.
Result<void> check_index(const ShardIndex& index, std::span<const Tensor> tensors,
                         std::span<const MappedFile> files) {
  const auto at = [](const Tensor& tensor) {
    return tensor.file->path().filename().string() + ": " + printable(tensor.name) + ": ";
  };
  std::size_t i = 0;
  for (const IndexEntry& entry : index.entries) {
    if (i < tensors.size() && tensors[i].name < entry.tensor) {
      return corrupt(at(tensors[i]) + "not named in " + std::string(kIndexFile));
    }
    if (i == tensors.size() || tensors[i].name != entry.tensor) {
      return corrupt(index.shards[entry.shard] + ": " + printable(entry.tensor) +
                     ": missing, expected by " + std::string(kIndexFile));
    }
    if (tensors[i].file != &files[entry.shard]) {
      return corrupt(at(tensors[i]) + "expected in " + index.shards[entry.shard] + " by " +
                     std::string(kIndexFile));
    }
    ++i;
  }
  if (i < tensors.size()) {
    return corrupt(at(tensors[i]) + "not named in " + std::string(kIndexFile));
  }
  return {};
}

}  // namespace

struct Checkpoint::State {
  std::vector<MappedFile> files;  // never resized after `tensors` point into it
  std::vector<const MappedFile*> by_address;
  std::vector<Tensor> tensors;  // sorted by name
  std::uint64_t total_bytes = 0;
  bool is_gguf = false;
  std::vector<std::size_t> header_bytes;  // of each file

  Result<void> finish();  // once files and tensors are there
};

Result<void> Checkpoint::State::finish() {
  for (const MappedFile& file : files) by_address.push_back(&file);
  std::ranges::sort(by_address, std::less<>{},
                    [](const MappedFile* file) { return file->bytes().data(); });
  for (const Tensor& tensor : tensors) total_bytes += tensor.bytes.size();
  std::ranges::sort(tensors, {}, &Tensor::name);
  const auto twice = std::ranges::adjacent_find(tensors, {}, &Tensor::name);
  if (twice == tensors.end()) return {};
  return corrupt((twice + 1)->file->path().filename().string() + ": " +
                 printable(twice->name_in_file()) + ": also in " +
                 twice->file->path().filename().string());
}

Result<Checkpoint> Checkpoint::open(const std::filesystem::path& dir) {
  auto state = std::make_unique<State>();
  if (auto gguf = TRY(open_gguf(dir))) {
    state->is_gguf = true;
    state->tensors.assign(gguf->tensors().begin(), gguf->tensors().end());
    for (Tensor& tensor : state->tensors) {
      tensor.stored_name = tensor.name;
      tensor.name = name_from_gguf(tensor.stored_name);
    }
    state->header_bytes.assign(gguf->header_bytes().begin(), gguf->header_bytes().end());
    state->files = std::move(*gguf).take_files();
    TRY(state->finish());
    return Checkpoint(std::move(state));
  }
  const ShardIndex index = TRY(read_index(dir));
  state->files.reserve(index.shards.size());
  for (const std::string& name : index.shards) {
    state->files.push_back(TRY(MappedFile::open(dir / name)));
    const MappedFile& file = state->files.back();
    std::vector<Tensor> tensors = TRY(parse_safetensors(file.bytes(), name));
    state->header_bytes.push_back(safetensors_header_bytes(file.bytes()));
    if (tensors.size() > kTensorsMax - state->tensors.size()) {
      return corrupt(name + ": more than " + std::to_string(kTensorsMax) +
                     " tensors in the checkpoint");
    }
    for (Tensor& tensor : tensors) {
      tensor.file = &file;
      state->tensors.push_back(std::move(tensor));
    }
  }
  TRY(state->finish());
  if (!index.entries.empty()) TRY(check_index(index, state->tensors, state->files));
  return Checkpoint(std::move(state));
}

Checkpoint::Checkpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

const Tensor* Checkpoint::find(std::string_view name) const {
  return find_in(state_->tensors, name);
}

std::span<const Tensor> Checkpoint::tensors() const { return state_->tensors; }

std::uint64_t Checkpoint::total_bytes() const { return state_->total_bytes; }

std::vector<Checkpoint::File> Checkpoint::files() const {
  std::vector<File> out;
  for (std::size_t i = 0; i < state_->files.size(); ++i) {
    out.push_back({&state_->files[i], state_->header_bytes[i]});
  }
  return out;
}

bool Checkpoint::is_gguf() const { return state_->is_gguf; }

void Checkpoint::drop(std::span<const std::byte> bytes) const {
  if (bytes.empty()) return;
  const auto after =
      std::ranges::upper_bound(state_->by_address, bytes.data(), std::less<>{},
                               [](const MappedFile* file) { return file->bytes().data(); });
  CHECK(after != state_->by_address.begin());
  const MappedFile& file = **(after - 1);
  file.drop(static_cast<std::size_t>(bytes.data() - file.bytes().data()), bytes.size());
}

}  // namespace conclave::formats
