#include "apps/synth_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <system_error>
#include <thread>

#include "apps/synth_fill.h"
#include "apps/synth_tokenizer.h"
#include "apps/terminal.h"

namespace conclave::apps {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kPieceBytes = std::uint64_t{4} << 20;
static_assert(kPieceBytes % kFillAlignment == 0);

std::string reason(int error) { return std::generic_category().message(error); }

Error write_error(const fs::path& path, int error) {
  const std::string what = error == ENOSPC || error == EDQUOT
                               ? "the disk is full: free some space or choose another --out"
                               : fmt::format("cannot write: {}", reason(error));
  return unavailable(fmt::format("{}: {}", path.string(), what));
}

// One open file that is written at given offsets by several threads.
class ShardFile {
 public:
  static Result<std::unique_ptr<ShardFile>> create(const fs::path& path) {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) return write_error(path, errno);
    return std::make_unique<ShardFile>(fd, path);
  }
  ShardFile(int fd, fs::path path) : fd_(fd), path_(std::move(path)) {}
  ShardFile(const ShardFile&) = delete;
  ShardFile& operator=(const ShardFile&) = delete;
  ~ShardFile() {
    if (fd_ >= 0) ::close(fd_);
  }

  Result<void> write(std::uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return write_error(path_, errno);
      offset += static_cast<std::uint64_t>(written);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return {};
  }

  Result<void> close() {
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0) return write_error(path_, errno);
    return {};
  }

 private:
  int fd_;
  fs::path path_;
};

// A piece of one tensor of the shard at hand.
struct Piece {
  std::size_t tensor = 0;
  std::uint64_t offset = 0;  // in the tensor
  std::uint64_t file_offset = 0;
  std::uint64_t size = 0;
};

std::vector<Piece> pieces_of(const SynthShard& shard, std::uint64_t data_begin) {
  std::vector<Piece> pieces;
  std::uint64_t at = data_begin;
  for (std::size_t i = 0; i < shard.tensors.size(); ++i) {
    const std::uint64_t total = shard.tensors[i].size_bytes();
    for (std::uint64_t offset = 0; offset < total; offset += kPieceBytes) {
      pieces.push_back({.tensor = i,
                        .offset = offset,
                        .file_offset = at + offset,
                        .size = std::min(kPieceBytes, total - offset)});
    }
    at += total;
  }
  return pieces;
}

class CheckpointWriter {
 public:
  CheckpointWriter(const SynthModel& model, fs::path dir, std::size_t threads,
                   const SynthProgress& progress)
      : model_(model), dir_(std::move(dir)), threads_(threads), progress_(progress) {}

  Result<void> write() {
    const std::vector<SynthShard> shards = plan_shards(tensor_table(model_), kShardBytes);
    for (const SynthShard& shard : shards) total_ += shard.data_bytes;
    TRY(check_space());
    const model::ModelConfig& config = model_.config;
    TRY(write_text("config.json", config_json(model_).dump(2)));
    TRY(write_text("generation_config.json", synth_generation_config(config.vocab_size)));
    TRY(write_text("tokenizer_config.json",
                   synth_tokenizer_config(config.vocab_size, config.max_positions)));
    TRY(write_text("chat_template.jinja", synth_chat_template()));
    TRY(write_text("tiktoken.model", synth_tiktoken(config.vocab_size)));
    TRY(write_text("model.safetensors.index.json", index_json(shards)));
    for (const SynthShard& shard : shards) TRY(write_shard(shard));
    return {};
  }

 private:
  Result<void> check_space() const {
    std::error_code error;
    const fs::space_info space = fs::space(dir_, error);
    if (error || space.available > total_) return {};
    return exhausted(fmt::format(
        "{}: the model needs {}, the disk has {} free: give fewer --layers or --experts, or "
        "choose another --out",
        dir_.string(), human_bytes(total_), human_bytes(space.available)));
  }

  Result<void> write_text(const char* name, const std::string& text) const {
    const fs::path path = dir_ / name;
    const std::unique_ptr<ShardFile> file = TRY(ShardFile::create(path));
    TRY(file->write(0, std::as_bytes(std::span(text))));
    return file->close();
  }

  Result<void> write_shard(const SynthShard& shard) {
    const std::unique_ptr<ShardFile> file = TRY(ShardFile::create(dir_ / shard.file_name));
    const std::string header = shard_header(shard);
    TRY(file->write(0, std::as_bytes(std::span(header))));
    const std::vector<Piece> pieces = pieces_of(shard, header.size());
    next_.store(0);
    std::vector<std::jthread> helpers;
    for (std::size_t i = 1; i < threads_; ++i) {
      helpers.emplace_back([&] { work(shard, pieces, *file, /*shows_progress=*/false); });
    }
    work(shard, pieces, *file, /*shows_progress=*/true);
    helpers.clear();  // joins
    if (error_) return *error_;
    return file->close();
  }

  // Takes the next piece until none is left or something failed.
  void work(const SynthShard& shard, const std::vector<Piece>& pieces, ShardFile& file,
            bool shows_progress) {
    std::vector<std::byte> buffer(kPieceBytes);
    std::optional<TensorFiller> filler;
    std::size_t filler_tensor = 0;
    while (!failed_.load()) {
      const std::size_t index = next_.fetch_add(1);
      if (index >= pieces.size()) return;
      const Piece& piece = pieces[index];
      if (!filler || filler_tensor != piece.tensor) {
        filler.emplace(tables_, shard.tensors[piece.tensor], model_.seed);
        filler_tensor = piece.tensor;
      }
      const std::span<std::byte> bytes(buffer.data(), piece.size);
      filler->fill(piece.offset, bytes);
      if (const Result<void> written = file.write(piece.file_offset, bytes); !written) {
        return fail(written.error());
      }
      done_.fetch_add(piece.size);
      if (!shows_progress) continue;
      if (progress_.update) progress_.update(done_.load(), total_);
      if (progress_.stop_wanted && progress_.stop_wanted()) return fail(unavailable("interrupted"));
    }
  }

  void fail(Error error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
    failed_.store(true);
  }

  const SynthModel& model_;
  fs::path dir_;
  std::size_t threads_;
  const SynthProgress& progress_;
  SynthTables tables_;
  std::uint64_t total_ = 0;
  std::atomic<std::uint64_t> done_{0};
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;  // guards error_ while helpers run
  std::optional<Error> error_;
};

// Makes the folder; true if it was not there before.
Result<bool> prepare_dir(const fs::path& dir) {
  std::error_code error;
  const bool made = fs::create_directories(dir, error);
  if (error) return write_error(dir, error.value());
  if (made) return true;
  if (!fs::is_empty(dir, error) || error) {
    return invalid_input(
        fmt::format("{}: exists and is not empty: choose another --out", dir.string()));
  }
  return false;
}

void remove_partial(const fs::path& dir, bool made) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, ignored)) {
    std::error_code stays;
    fs::remove(entry.path(), stays);
  }
  if (made) fs::remove(dir, ignored);
}

}  // namespace

std::vector<SynthShard> plan_shards(std::vector<SynthTensor> table, std::uint64_t shard_bytes) {
  std::vector<SynthShard> shards(1);
  for (SynthTensor& tensor : table) {
    const std::uint64_t size = tensor.size_bytes();
    if (!shards.back().tensors.empty() && shards.back().data_bytes + size > shard_bytes) {
      shards.emplace_back();
    }
    shards.back().data_bytes += size;
    shards.back().tensors.push_back(std::move(tensor));
  }
  for (std::size_t i = 0; i < shards.size(); ++i) {
    shards[i].file_name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    std::stable_sort(shards[i].tensors.begin(), shards[i].tensors.end(),
                     [](const SynthTensor& a, const SynthTensor& b) {
                       return formats::size_bytes(a.dtype) > formats::size_bytes(b.dtype);
                     });
  }
  return shards;
}

// Both documents are written by hand: ordered_json looks a key up in linear time, and a large model
// has 200,000 tensors. Their names need no escapes.
std::string shard_header(const SynthShard& shard) {
  std::string json = R"({"__metadata__":{"format":"pt"})";
  std::uint64_t at = 0;
  for (const SynthTensor& tensor : shard.tensors) {
    const std::uint64_t end = at + tensor.size_bytes();
    fmt::format_to(std::back_inserter(json),
                   R"(,"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", tensor.name,
                   formats::name(tensor.dtype), fmt::join(tensor.shape, ","), at, end);
    at = end;
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  std::string text;
  for (int byte = 0; byte < 8; ++byte) {
    text += static_cast<char>((std::uint64_t{json.size()} >> (8 * byte)) & 0xff);
  }
  return text + json;
}

std::string index_json(const std::vector<SynthShard>& shards) {
  std::uint64_t total = 0;
  std::string map;
  for (const SynthShard& shard : shards) {
    total += shard.data_bytes;
    for (const SynthTensor& tensor : shard.tensors) {
      fmt::format_to(std::back_inserter(map), "{}\n  \"{}\": \"{}\"", map.empty() ? "" : ",",
                     tensor.name, shard.file_name);
    }
  }
  return fmt::format("{{\n \"metadata\": {{\"total_size\": {}}},\n \"weight_map\": {{{}\n }}\n}}\n",
                     total, map);
}

Result<void> write_checkpoint(const SynthModel& model, const fs::path& dir, std::size_t threads,
                              const SynthProgress& progress) {
  const bool made = TRY(prepare_dir(dir));
  Result<void> written = CheckpointWriter(model, dir, threads, progress).write();
  if (!written) remove_partial(dir, made);
  return written;
}

}  // namespace conclave::apps
