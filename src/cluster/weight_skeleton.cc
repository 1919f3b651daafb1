// The folder of sparse files in which a model opens whose weights come from elsewhere.
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "cluster/file_access.h"
#include "cluster/weight_fetch.h"

namespace conclave::cluster {
namespace {

// Spreads the bytes of a skeleton, which come one after the other, over its files.
class SkeletonWriter {
 public:
  SkeletonWriter(std::filesystem::path dir, std::span<const model::FileRange> ranges)
      : dir_(std::move(dir)), ranges_(ranges) {}

  Result<void> write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const model::FileRange& range = ranges_[at_];
      TRY(open(range));
      const std::size_t n =
          static_cast<std::size_t>(std::min<std::uint64_t>(range.bytes - done_, bytes.size()));
      TRY(write_at(file_.get(), bytes.first(n), range.offset + done_, dir_ / range.file));
      bytes = bytes.subspan(n);
      done_ += n;
      if (done_ < range.bytes) continue;
      done_ = 0;
      ++at_;
    }
    return {};
  }

 private:
  Result<void> open(const model::FileRange& range) {
    if (file_.open() && name_ == range.file) return {};
    const std::filesystem::path path = dir_ / range.file;
    file_ = TRY(open_file(path, O_RDWR | O_CREAT));
    name_ = range.file;
    if (::ftruncate(file_.get(), static_cast<off_t>(range.file_bytes)) == 0) return {};
    return exhausted(
        path.string() + ": cannot be made " + std::to_string(range.file_bytes) +
        " bytes long (its bytes are few, but the file system must know sparse files): " +
        std::generic_category().message(errno));
  }

  std::filesystem::path dir_;
  std::span<const model::FileRange> ranges_;
  std::size_t at_ = 0;      // range
  std::uint64_t done_ = 0;  // of its bytes
  FileDescriptor file_;
  std::string name_;
};

Result<std::vector<model::FileRange>> fetch_ranges(WeightFetch& fetch) {
  fetch.plan({BulkRequest{.kind = BulkKind::kSkeleton}});
  std::string list;
  TRY(fetch.next([&list](std::uint64_t bytes) -> Result<std::span<std::byte>> {
    list.resize(static_cast<std::size_t>(bytes));
    return std::as_writable_bytes(std::span(list));
  }));
  const auto message = TRY(wire::parse<wire::pb::Skeleton>(list));
  return skeleton_ranges(message);
}

Result<void> fetch_files(WeightFetch& fetch, const std::filesystem::path& dir) {
  const std::vector<model::FileRange> ranges = TRY(fetch_ranges(fetch));
  const std::uint64_t total = total_bytes(ranges);
  std::vector<BulkRequest> requests;
  for (std::uint64_t offset = 0; offset < total; offset += kSkeletonChunkMax) {
    BulkRequest request{.kind = BulkKind::kSkeletonBytes};
    request.offset = offset;
    request.bytes = std::min<std::uint64_t>(kSkeletonChunkMax, total - offset);
    requests.push_back(request);
  }
  const std::size_t n_requests = requests.size();
  fetch.plan(std::move(requests));
  SkeletonWriter writer(dir, ranges);
  std::vector<std::byte> chunk;
  for (std::size_t i = 0; i < n_requests; ++i) {
    TRY(fetch.next([&chunk](std::uint64_t bytes) -> Result<std::span<std::byte>> {
      chunk.resize(static_cast<std::size_t>(bytes));
      return std::span(chunk);
    }));
    TRY(writer.write(chunk));
  }
  return {};
}

bool opens_as(const std::filesystem::path& dir, std::uint64_t fingerprint) {
  const auto source = model::ModelSource::open(dir);
  return source && source.value().fingerprint() == fingerprint;
}

}  // namespace

Result<std::filesystem::path> fetch_skeleton(WeightFetch& fetch,
                                             const std::filesystem::path& weights_dir) {
  const std::filesystem::path folder = weights_dir / hex_text(fetch.model());
  const std::filesystem::path skeleton = folder / "skeleton";
  if (opens_as(skeleton, fetch.model())) return skeleton;
  // Made under another name: what has this one is complete.
  const std::filesystem::path unfinished = folder / "skeleton.new";
  std::error_code error;
  std::filesystem::remove_all(skeleton, error);
  std::filesystem::remove_all(unfinished, error);
  std::filesystem::create_directories(unfinished, error);
  if (error) return unavailable(unfinished.string() + ": cannot be made: " + error.message());
  TRY(fetch_files(fetch, unfinished));
  if (const auto source = model::ModelSource::open(unfinished); !source) {
    return Error{source.error().code,
                 "the model's files as a peer gave them: " + source.error().message};
  } else if (source.value().fingerprint() != fetch.model()) {
    return corrupt("the files of model " + hex_text(fetch.model()) +
                   " changed on the machine that gives them: restart that one");
  }
  std::filesystem::rename(unfinished, skeleton, error);
  if (error) return unavailable(skeleton.string() + ": cannot be made: " + error.message());
  spdlog::info("skeleton fetched model={} folder={}", hex_text(fetch.model()), skeleton.string());
  return skeleton;
}

}  // namespace conclave::cluster
