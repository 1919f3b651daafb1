#include "cluster/served_model.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/file_descriptor.h"
#include "cluster/file_access.h"

namespace conclave::cluster {

Result<const ServedModel::Skeleton*> ServedModel::skeleton() {
  const std::lock_guard lock(mutex_);
  if (!skeleton_) {
    Skeleton made;
    made.ranges = TRY(model::skeleton(source_));
    made.starts.reserve(made.ranges.size());
    for (const model::FileRange& range : made.ranges) {
      made.starts.push_back(made.total);
      made.total += range.bytes;
    }
    const wire::pb::Skeleton message = skeleton_message(made.ranges);
    // The other side would refuse it, with less to say about why.
    if (const auto checked = skeleton_ranges(message); !checked) {
      return unsupported(source_.dir().string() +
                         ": cannot be given to others: " + checked.error().message);
    }
    made.list = message.SerializeAsString();
    if (made.list.size() > kSkeletonListMax) {
      return unsupported(source_.dir().string() + ": has too many tensors to be given to others");
    }
    skeleton_ = std::move(made);
  }
  return &*skeleton_;
}

Result<std::vector<std::byte>> ServedModel::skeleton_bytes(std::uint64_t offset, std::size_t size) {
  const Skeleton& all = *TRY(skeleton());
  if (offset > all.total || size > all.total - offset) {
    return invalid_input("skeleton: bytes " + std::to_string(offset) + " to " +
                         std::to_string(offset + size) + " of " + std::to_string(all.total));
  }
  std::vector<std::byte> bytes(size);
  // The last range that begins at `offset` or before.
  auto at = static_cast<std::size_t>(std::ranges::upper_bound(all.starts, offset) -
                                     all.starts.begin() - 1);
  FileDescriptor file;
  std::string open_name;
  for (std::size_t done = 0; done < size; ++at) {
    const model::FileRange& range = all.ranges[at];
    const std::uint64_t skipped = offset + done - all.starts[at];
    const std::size_t n =
        static_cast<std::size_t>(std::min<std::uint64_t>(range.bytes - skipped, size - done));
    if (open_name != range.file) {
      file = TRY(open_file(source_.dir() / range.file, O_RDONLY));
      open_name = range.file;
    }
    TRY(read_at(file.get(), std::span(bytes).subspan(done, n), range.offset + skipped,
                source_.dir() / range.file));
    done += n;
  }
  return bytes;
}

Result<std::vector<std::byte>> ServedModel::answer(const BulkRequest& request, ThreadPool& pool) {
  switch (request.kind) {
    case BulkKind::kSkeleton: {
      const std::string& list = TRY(skeleton())->list;
      const auto bytes = std::as_bytes(std::span(list));
      return std::vector<std::byte>(bytes.begin(), bytes.end());
    }
    case BulkKind::kSkeletonBytes:
      return skeleton_bytes(request.offset, static_cast<std::size_t>(request.bytes));
    case BulkKind::kPart: {
      std::vector<std::byte> bytes(request.part->size_bytes());
      TRY(backend::pack_part(source_, *request.part, pool, bytes));
      return bytes;
    }
    case BulkKind::kModel:
    case BulkKind::kEcho:
    case BulkKind::kRefused:
      break;
  }
  CHECK(false);
  return invalid_input("not a request for bytes");
}

}  // namespace conclave::cluster
