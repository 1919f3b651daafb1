// A checkpoint in this machine's files as others may ask for it.
//
// Threads: any, several at once.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cluster/bulk_messages.h"
#include "model/model.h"

namespace conclave::cluster {

class ServedModel {
 public:
  // `source` must outlive it and have all its files.
  explicit ServedModel(const model::ModelSource& source) : source_(source) {}

  const model::ModelSource& source() const { return source_; }

  // What `request`, which decode_request has let through, asks for; reads files. Errors name what
  // is wrong with the request or the files. Not for kModel.
  Result<std::vector<std::byte>> answer(const BulkRequest& request, ThreadPool& pool);

 private:
  // Made when first asked for: most lives of a server need none.
  struct Skeleton {
    std::vector<model::FileRange> ranges;
    std::vector<std::uint64_t> starts;  // [range]: where it begins among all bytes
    std::uint64_t total = 0;
    std::string list;
  };
  Result<const Skeleton*> skeleton();
  Result<std::vector<std::byte>> skeleton_bytes(std::uint64_t offset, std::size_t size);

  const model::ModelSource& source_;
  std::mutex mutex_;
  std::optional<Skeleton> skeleton_;  // guarded until it is there, then constant
};

}  // namespace conclave::cluster
