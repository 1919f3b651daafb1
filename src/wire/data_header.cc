#include "wire/data_header.h"

#include <string>

#include "base/little_endian.h"
#include "base/rng.h"

namespace conclave::wire {
namespace {

std::uint32_t checksum(std::span<const std::byte> bytes) {
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at < 24; at += 8)
    sum = hash_combine(sum, get_little_endian<std::uint64_t>(bytes, at));
  return static_cast<std::uint32_t>(hash_combine(sum, get_little_endian<std::uint32_t>(bytes, 24)));
}

Error bad(const std::string& field, std::uint64_t value) {
  return corrupt("a message's header says " + field + " " + std::to_string(value));
}

}  // namespace

std::array<std::byte, kDataHeaderSize> encode(const DataHeader& header) {
  std::array<std::byte, kDataHeaderSize> bytes{};
  put_little_endian(bytes, 0, kDataMagic);
  put_little_endian(bytes, 4, kDataVersion);
  put_little_endian(bytes, 5, static_cast<std::uint8_t>(header.kind));
  put_little_endian(bytes, 6, header.layer);
  put_little_endian(bytes, 8, header.epoch);
  put_little_endian(bytes, 12, header.step);
  put_little_endian(bytes, 16, header.sequence);
  put_little_endian(bytes, 20, header.size);
  put_little_endian(bytes, 24, static_cast<std::uint8_t>(header.phase));
  put_little_endian(bytes, 28, checksum(bytes));
  return bytes;
}

Result<DataHeader> decode_data_header(std::span<const std::byte, kDataHeaderSize> bytes) {
  const auto magic = get_little_endian<std::uint32_t>(bytes, 0);
  if (magic != kDataMagic) return bad("magic", magic);
  const auto sum = get_little_endian<std::uint32_t>(bytes, 28);
  if (sum != checksum(bytes)) return bad("checksum", sum);
  const auto version = get_little_endian<std::uint8_t>(bytes, 4);
  if (version != kDataVersion) return bad("version", version);
  const auto kind = get_little_endian<std::uint8_t>(bytes, 5);
  if (kind > kDataKindLast) return bad("kind", kind);
  const auto phase = get_little_endian<std::uint8_t>(bytes, 24);
  if (phase > kPhaseLast) return bad("phase", phase);
  const auto zero = get_little_endian<std::uint32_t>(bytes, 24) >> 8;
  if (zero != 0) return bad("a reserved field that is not zero:", zero);
  const auto size = get_little_endian<std::uint32_t>(bytes, 20);
  if (size > kDataSizeMax) return bad("size", size);
  return DataHeader{.kind = static_cast<DataKind>(kind),
                    .phase = static_cast<Phase>(phase),
                    .layer = get_little_endian<std::uint16_t>(bytes, 6),
                    .epoch = get_little_endian<std::uint32_t>(bytes, 8),
                    .step = get_little_endian<std::uint32_t>(bytes, 12),
                    .sequence = get_little_endian<std::uint32_t>(bytes, 16),
                    .size = size};
}

}  // namespace conclave::wire
