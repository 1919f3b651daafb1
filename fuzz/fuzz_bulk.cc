// What a peer may say on a bulk connection: requests, answers, and the list of a skeleton. What
// decodes is within its limits and encodes to the same bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/check.h"
#include "cluster/bulk_messages.h"

namespace conclave::cluster {
namespace {

void decode_fixed(std::span<const std::byte> bytes) {
  if (bytes.size() >= kBulkRequestSize) {
    const auto first = bytes.first<kBulkRequestSize>();
    if (const auto request = decode_request(first)) {
      CHECK(request->bytes <= (request->kind == BulkKind::kEcho ? kEchoMax : kSkeletonChunkMax));
      if (request->part) CHECK(request->part->size_bytes() <= backend::kPartBytesMax);
      CHECK(std::ranges::equal(encode(*request), first));
    }
  }
  if (bytes.size() >= kBulkAnswerSize) {
    const auto first = bytes.first<kBulkAnswerSize>();
    if (const auto answer = decode_answer(first)) {
      CHECK(answer->bytes <= kSkeletonListMax);
      CHECK(std::ranges::equal(encode(*answer), first));
    }
  }
}

void read_skeleton(std::string_view text) {
  const auto message = wire::parse<wire::pb::Skeleton>(text);
  if (!message) return;
  const auto ranges = skeleton_ranges(*message);
  if (!ranges) return;
  CHECK(total_bytes(*ranges) <= kSkeletonBytesMax);
  for (const model::FileRange& range : *ranges) {
    CHECK(range.file.find('/') == std::string::npos && range.file != "..");
    CHECK(range.offset + range.bytes <= range.file_bytes);
  }
  const auto again = skeleton_ranges(skeleton_message(*ranges));
  CHECK(again && *again == *ranges);
}

}  // namespace
}  // namespace conclave::cluster

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  conclave::cluster::decode_fixed(bytes);
  conclave::cluster::read_skeleton({reinterpret_cast<const char*>(data), size});
  return 0;
}
