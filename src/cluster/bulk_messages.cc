#include "cluster/bulk_messages.h"

#include <openssl/evp.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/little_endian.h"

namespace conclave::cluster {
namespace {

constexpr std::size_t kNameMax = 255;                                   // of a file in a folder
constexpr auto kKindLast = static_cast<std::uint8_t>(BulkKind::kEcho);  // but for kRefused
constexpr auto kCodeLast = static_cast<std::uint8_t>(ErrorCode::kUnsupported);

bool is_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

Error bad_request(std::string_view name, std::uint64_t found) {
  return corrupt("bulk request: " + std::string(name) + " " + std::to_string(found));
}

Error bad_answer(std::string_view name, std::uint64_t found) {
  return corrupt("bulk answer: " + std::string(name) + " " + std::to_string(found));
}

Error bad_skeleton(std::string_view file, const std::string& what) {
  return corrupt("skeleton: file \"" + std::string(file.substr(0, kNameMax)) + "\" " + what);
}

// Nothing that leaves its folder, hides, or needs quotes in a message.
bool is_plain_name(std::string_view name) {
  if (name.empty() || name.size() > kNameMax || name.front() == '.') return false;
  return std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-' || c == '+';
  });
}

std::uint64_t bytes_max(BulkKind kind) {
  switch (kind) {
    case BulkKind::kModel:
      return 0;
    case BulkKind::kSkeleton:
      return kSkeletonListMax;
    case BulkKind::kSkeletonBytes:
      return kSkeletonChunkMax;
    case BulkKind::kPart:
      return backend::kPartBytesMax;
    case BulkKind::kEcho:
      return kEchoMax;
    case BulkKind::kRefused:
      return kRefusalMax;
  }
  return 0;
}

}  // namespace

// --- requests ---------------------------------------------------------------------------------

std::array<std::byte, kBulkRequestSize> encode(const BulkRequest& request) {
  std::array<std::byte, kBulkRequestSize> bytes{};
  put_little_endian(bytes, 0, static_cast<std::uint8_t>(request.kind));
  put_little_endian(bytes, 8, request.id);
  switch (request.kind) {
    case BulkKind::kModel:
      put_little_endian(bytes, 16, kBulkVersion);
      put_little_endian(bytes, 24, request.model);
      break;
    case BulkKind::kSkeletonBytes:
      put_little_endian(bytes, 16, request.offset);
      put_little_endian(bytes, 24, request.bytes);
      break;
    case BulkKind::kPart: {
      CHECK(request.part.has_value());
      const auto part = backend::encode_part(*request.part);
      static_assert(16 + backend::kPartEncodingSize == kBulkRequestSize);
      std::ranges::copy(part, bytes.begin() + 16);
      break;
    }
    case BulkKind::kEcho:
      put_little_endian(bytes, 16, request.bytes);
      break;
    case BulkKind::kSkeleton:
    case BulkKind::kRefused:
      break;
  }
  return bytes;
}

Result<BulkRequest> decode_request(std::span<const std::byte, kBulkRequestSize> bytes) {
  BulkRequest request;
  const auto kind = get_little_endian<std::uint8_t>(bytes, 0);
  if (kind < 1 || kind > kKindLast) return bad_request("kind", kind);
  if (!is_zero(bytes.subspan(1, 7))) return bad_request("padding at", 1);
  request.kind = static_cast<BulkKind>(kind);
  request.id = get_little_endian<std::uint64_t>(bytes, 8);
  std::size_t used = 16;
  switch (request.kind) {
    case BulkKind::kModel: {
      const auto version = get_little_endian<std::uint32_t>(bytes, 16);
      if (version != kBulkVersion) {
        return unsupported("bulk request: version " + std::to_string(version) +
                           ", this build speaks " + std::to_string(kBulkVersion) +
                           ": upgrade both machines to one build");
      }
      if (!is_zero(bytes.subspan(20, 4))) return bad_request("padding at", 20);
      request.model = get_little_endian<std::uint64_t>(bytes, 24);
      used = 32;
      break;
    }
    case BulkKind::kSkeletonBytes:
      request.offset = get_little_endian<std::uint64_t>(bytes, 16);
      request.bytes = get_little_endian<std::uint64_t>(bytes, 24);
      if (request.bytes == 0 || request.bytes > kSkeletonChunkMax) {
        return bad_request("size", request.bytes);
      }
      if (request.offset > kSkeletonBytesMax) return bad_request("offset", request.offset);
      used = 32;
      break;
    case BulkKind::kPart:
      request.part = TRY(backend::decode_part(bytes.subspan(16)));
      used = kBulkRequestSize;
      break;
    case BulkKind::kEcho:
      request.bytes = get_little_endian<std::uint64_t>(bytes, 16);
      if (request.bytes > kEchoMax) return bad_request("size", request.bytes);
      used = 24;
      break;
    case BulkKind::kSkeleton:
    case BulkKind::kRefused:
      break;
  }
  if (!is_zero(bytes.subspan(used))) return bad_request("padding at", used);
  return request;
}

// --- answers ----------------------------------------------------------------------------------

std::array<std::byte, kBulkAnswerSize> encode(const BulkAnswer& answer) {
  CHECK(answer.bytes <= bytes_max(answer.kind));
  std::array<std::byte, kBulkAnswerSize> bytes{};
  put_little_endian(bytes, 0, static_cast<std::uint8_t>(answer.kind));
  if (answer.kind == BulkKind::kRefused) {
    put_little_endian(bytes, 1, static_cast<std::uint8_t>(answer.code));
  }
  put_little_endian(bytes, 8, answer.id);
  put_little_endian(bytes, 16, answer.bytes);
  if (answer.kind == BulkKind::kEcho) {
    put_little_endian(bytes, 24, answer.unix_us);
  } else {
    std::ranges::copy(answer.hash, bytes.begin() + 24);
  }
  return bytes;
}

Result<BulkAnswer> decode_answer(std::span<const std::byte, kBulkAnswerSize> bytes) {
  BulkAnswer answer;
  const auto kind = get_little_endian<std::uint8_t>(bytes, 0);
  const bool refused = kind == static_cast<std::uint8_t>(BulkKind::kRefused);
  if ((kind < 1 || kind > kKindLast) && !refused) return bad_answer("kind", kind);
  answer.kind = static_cast<BulkKind>(kind);
  const auto code = get_little_endian<std::uint8_t>(bytes, 1);
  if (code > (refused ? kCodeLast : 0)) return bad_answer("code", code);
  if (refused) answer.code = static_cast<ErrorCode>(code);
  if (!is_zero(bytes.subspan(2, 6))) return bad_answer("padding at", 2);
  answer.id = get_little_endian<std::uint64_t>(bytes, 8);
  answer.bytes = get_little_endian<std::uint64_t>(bytes, 16);
  if (answer.bytes > bytes_max(answer.kind)) return bad_answer("size", answer.bytes);
  if (answer.kind == BulkKind::kEcho) {
    answer.unix_us = get_little_endian<std::uint64_t>(bytes, 24);
    if (!is_zero(bytes.subspan(32))) return bad_answer("padding at", 32);
  } else {
    std::ranges::copy(bytes.subspan(24), answer.hash.begin());
  }
  return answer;
}

// --- hashes -----------------------------------------------------------------------------------

struct Hasher::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
};

Hasher::Hasher() : state_(std::make_unique<State>()) {
  CHECK(state_->context != nullptr);
  CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}

Hasher::~Hasher() { EVP_MD_CTX_free(state_->context); }

void Hasher::add(std::span<const std::byte> bytes) {
  CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

Hash Hasher::finish() {
  Hash hash;
  unsigned int size = 0;
  CHECK(EVP_DigestFinal_ex(state_->context, reinterpret_cast<unsigned char*>(hash.data()), &size) ==
        1);
  CHECK(size == hash.size());
  CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
  return hash;
}

Hash hash_of(std::span<const std::byte> bytes) {
  Hasher hasher;
  hasher.add(bytes);
  return hasher.finish();
}

// --- skeletons --------------------------------------------------------------------------------

wire::pb::Skeleton skeleton_message(std::span<const model::FileRange> ranges) {
  wire::pb::Skeleton message;
  for (const model::FileRange& range : ranges) {
    if (message.files_size() == 0 || message.files(message.files_size() - 1).name() != range.file) {
      wire::pb::Skeleton::File* file = message.add_files();
      file->set_name(range.file);
      file->set_file_bytes(range.file_bytes);
    }
    wire::pb::Skeleton::File* file = message.mutable_files(message.files_size() - 1);
    file->add_offsets(range.offset);
    file->add_sizes(range.bytes);
  }
  return message;
}

Result<std::vector<model::FileRange>> skeleton_ranges(const wire::pb::Skeleton& message) {
  if (static_cast<std::size_t>(message.files_size()) > kSkeletonFilesMax) {
    return corrupt("skeleton: " + std::to_string(message.files_size()) + " files, at most " +
                   std::to_string(kSkeletonFilesMax));
  }
  std::vector<model::FileRange> ranges;
  std::uint64_t total = 0;
  std::string_view before;
  for (const wire::pb::Skeleton::File& file : message.files()) {
    if (!is_plain_name(file.name())) return bad_skeleton(file.name(), "is no plain file name");
    if (file.name() <= before) return bad_skeleton(file.name(), "is not in order");
    before = file.name();
    if (file.file_bytes() > kSkeletonFileMax) return bad_skeleton(file.name(), "is too large");
    if (file.offsets_size() != file.sizes_size()) {
      return bad_skeleton(file.name(), "has ranges without a size");
    }
    std::uint64_t end = 0;
    for (int i = 0; i < file.offsets_size(); ++i) {
      const std::uint64_t offset = file.offsets(i);
      const std::uint64_t bytes = file.sizes(i);
      if (offset < end || offset > file.file_bytes() || bytes > file.file_bytes() - offset) {
        return bad_skeleton(file.name(), "has a range that is out of place");
      }
      // An empty file is one empty range.
      if (bytes == 0 && file.file_bytes() != 0) return bad_skeleton(file.name(), "has no bytes");
      end = offset + bytes;
      total += bytes;
      if (total > kSkeletonBytesMax) return bad_skeleton(file.name(), "makes it too large");
      ranges.push_back({file.name(), offset, bytes, file.file_bytes()});
    }
  }
  return ranges;
}

std::uint64_t total_bytes(std::span<const model::FileRange> ranges) {
  std::uint64_t total = 0;
  for (const model::FileRange& range : ranges) total += range.bytes;
  return total;
}

std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == 127) c = '?';
  }
  return text;
}

std::string hex_text(std::uint64_t value) {
  std::array<char, 17> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, 16).ptr;
  return {text.data(), end};
}

}  // namespace conclave::cluster
