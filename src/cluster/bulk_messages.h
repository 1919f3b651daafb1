// What is said on a bulk connection: a machine that has a model's files gives a machine that has
// not what is to be in its memory.
//
//   client:  kModel · kSkeleton · kSkeletonBytes ... · kPart · kPart · kPart ...
//   server:  one answer to each, in the order of the requests: a header, then `bytes` bytes
//
// The client sends several requests ahead. A request that cannot be fulfilled is answered kRefused,
// with the reason as its bytes. TLS guards the bytes on their way; the hash, made when they were
// packed and checked where they will stay, guards them against memory and disks that err.
//
// A kEcho may come at any time, also first: the links between machines are measured with it.
//
// Pure functions. What comes in is untrusted; each decoder states its limits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"
#include "model/model.h"
#include "wire/wire.h"

namespace conclave::cluster {

inline constexpr std::uint32_t kBulkVersion = 1;
inline constexpr std::size_t kRefusalMax = 1024;  // characters
inline constexpr std::size_t kSkeletonListMax = std::size_t{64} << 20;
inline constexpr std::size_t kSkeletonChunkMax = std::size_t{4} << 20;  // of one kSkeletonBytes
inline constexpr std::uint64_t kSkeletonBytesMax = std::uint64_t{2} << 30;
inline constexpr std::uint64_t kSkeletonFileMax = std::uint64_t{1} << 44;
inline constexpr std::size_t kSkeletonFilesMax = 8192;
inline constexpr std::size_t kEchoMax = std::size_t{16} << 20;  // bytes of one answer

enum class BulkKind : std::uint8_t {
  kModel = 1,          // first of a connection: which one. Answered without bytes
  kSkeleton = 2,       // answered by a wire::pb::Skeleton
  kSkeletonBytes = 3,  // some of the bytes that it lists
  kPart = 4,           // packed weights
  kEcho = 5,           // bytes without meaning, and the server's clock; without a hash
  kRefused = 255,      // answers only
};

struct BulkRequest {
  BulkKind kind = BulkKind::kModel;
  std::uint64_t id = 0;      // comes back with the answer
  std::uint64_t model = 0;   // kModel: ModelSource::fingerprint
  std::uint64_t offset = 0;  // kSkeletonBytes
  // kSkeletonBytes: 1 to kSkeletonChunkMax; kEcho: at most kEchoMax.
  std::uint64_t bytes = 0;
  std::optional<backend::PackedPart> part{};  // kPart
  bool operator==(const BulkRequest&) const = default;
};

using Hash = std::array<std::byte, 32>;  // SHA-256

struct BulkAnswer {
  BulkKind kind = BulkKind::kModel;
  ErrorCode code = ErrorCode::kUnavailable;  // kRefused
  std::uint64_t id = 0;
  std::uint64_t bytes = 0;
  Hash hash{};                // all but kEcho
  std::uint64_t unix_us = 0;  // kEcho: microseconds since 1970, when it was answered
  bool operator==(const BulkAnswer&) const = default;
};

// 0 kind u8 · 1 zero · 8 id u64 · 16 kModel: version u32, zero u32, model u64, zero; kSkeleton:
// zero; kSkeletonBytes: offset u64, bytes u64, zero; kPart: backend::encode_part; kEcho: bytes u64,
// zero. Little-endian.
inline constexpr std::size_t kBulkRequestSize = 48;
std::array<std::byte, kBulkRequestSize> encode(const BulkRequest& request);
// kCorrupt names the field; kUnsupported: another version. What decodes encodes to the same bytes.
Result<BulkRequest> decode_request(std::span<const std::byte, kBulkRequestSize> bytes);

// 0 kind u8 · 1 code u8 · 2 zero · 8 id u64 · 16 bytes u64 · 24 hash; kEcho: unix_us u64, zero.
inline constexpr std::size_t kBulkAnswerSize = 56;
std::array<std::byte, kBulkAnswerSize> encode(const BulkAnswer& answer);
// kCorrupt names the field; `bytes` is within the limit of its kind. Same bytes again, as above.
Result<BulkAnswer> decode_answer(std::span<const std::byte, kBulkAnswerSize> bytes);

// SHA-256: the processor's own instructions do it at some 2 GB/s, faster than the links that the
// bytes come over; without them at 0.4 GB/s.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  void add(std::span<const std::byte> bytes);
  Hash finish();  // and begins anew

 private:
  struct State;
  std::unique_ptr<State> state_;
};
Hash hash_of(std::span<const std::byte> bytes);

// `ranges` as model::skeleton gives them.
wire::pb::Skeleton skeleton_message(std::span<const model::FileRange> ranges);
// kCorrupt: more than the limits above, a name that is no plain file name, ranges that are empty,
// overlap, go backwards or leave their file.
Result<std::vector<model::FileRange>> skeleton_ranges(const wire::pb::Skeleton& message);
std::uint64_t total_bytes(std::span<const model::FileRange> ranges);

// What a peer says, for a person: control characters become '?'.
std::string printable(std::string text);

// "2f00c3": names of folders and memories.
std::string hex_text(std::uint64_t value);

}  // namespace conclave::cluster
