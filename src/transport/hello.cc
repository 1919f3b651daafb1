#include "transport/hello.h"

#include <algorithm>
#include <string>

#include "base/little_endian.h"
#include "base/rng.h"

namespace conclave::transport {
namespace {

constexpr std::uint32_t kHelloMagic = 0x4a564e43;  // "CNVJ"
constexpr std::uint8_t kHelloVersion = 1;
constexpr std::uint8_t kSharedMemoryFlag = 1;
constexpr std::size_t kChecksumAt = 44;

std::uint32_t checksum(std::span<const std::byte> bytes) {
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at < kChecksumAt; at += 4) {
    sum = hash_combine(sum, get_little_endian<std::uint32_t>(bytes, at));
  }
  return static_cast<std::uint32_t>(sum);
}

Error bad(const std::string& field, std::uint64_t value) {
  return corrupt("its greeting says " + field + " " + std::to_string(value));
}

Error differs(const std::string& field, std::uint64_t theirs, std::uint64_t ours) {
  return invalid_input("it is of " + field + " " + std::to_string(theirs) + ", not " +
                       std::to_string(ours));
}

}  // namespace

std::array<std::byte, kHelloSize> encode(const Hello& hello) {
  std::array<std::byte, kHelloSize> bytes{};
  put_little_endian(bytes, 0, kHelloMagic);
  put_little_endian(bytes, 4, kHelloVersion);
  put_little_endian(bytes, 5, hello.shared_memory ? kSharedMemoryFlag : std::uint8_t{0});
  put_little_endian(bytes, 6, hello.n_ranks);
  put_little_endian(bytes, 8, hello.cluster);
  put_little_endian(bytes, 16, hello.epoch);
  put_little_endian(bytes, 20, hello.rank);
  put_little_endian(bytes, 22, hello.to);
  std::copy(hello.lane.begin(), hello.lane.end(), bytes.begin() + 24);
  put_little_endian(bytes, kChecksumAt, checksum(bytes));
  return bytes;
}

Result<Hello> decode_hello(std::span<const std::byte, kHelloSize> bytes) {
  if (const auto magic = get_little_endian<std::uint32_t>(bytes, 0); magic != kHelloMagic) {
    return corrupt("it is not a greeting of conclave");
  }
  const auto version = get_little_endian<std::uint8_t>(bytes, 4);
  if (version != kHelloVersion) return bad("version", version);
  const auto sum = get_little_endian<std::uint32_t>(bytes, kChecksumAt);
  if (sum != checksum(bytes)) return bad("checksum", sum);
  const auto flags = get_little_endian<std::uint8_t>(bytes, 5);
  if (flags > kSharedMemoryFlag) return bad("flags", flags);
  Hello hello{.cluster = get_little_endian<std::uint64_t>(bytes, 8),
              .epoch = get_little_endian<std::uint32_t>(bytes, 16),
              .n_ranks = get_little_endian<std::uint16_t>(bytes, 6),
              .rank = get_little_endian<std::uint16_t>(bytes, 20),
              .to = get_little_endian<std::uint16_t>(bytes, 22),
              .shared_memory = flags == kSharedMemoryFlag};
  std::copy_n(bytes.begin() + 24, hello.lane.size(), hello.lane.begin());
  if (hello.n_ranks > kRanksMax) return bad("a group of", hello.n_ranks);
  if (hello.rank >= hello.n_ranks) return bad("rank", hello.rank);
  if (hello.to >= hello.n_ranks) return bad("to rank", hello.to);
  if (const auto zero = get_little_endian<std::uint32_t>(bytes, 40); zero != 0) {
    return bad("a reserved field that is not zero:", zero);
  }
  return hello;
}

Result<void> check_hello(const Hello& hello, const GroupSpec& spec, Rank from) {
  if (hello.cluster != spec.cluster) return differs("cluster", hello.cluster, spec.cluster);
  if (hello.epoch != spec.epoch) return differs("epoch", hello.epoch, spec.epoch);
  if (hello.n_ranks != spec.ranks.size()) {
    return differs("a group of", hello.n_ranks, spec.ranks.size());
  }
  if (hello.rank != from) return differs("rank", hello.rank, from);
  if (hello.to != spec.rank) {
    return invalid_input("it wants rank " + std::to_string(hello.to) + ", this is rank " +
                         std::to_string(spec.rank));
  }
  return {};
}

bool link_is_clear(const GroupSpec& spec, Rank peer) {
  return spec.ranks[spec.rank].clear && spec.ranks[peer].clear;
}

}  // namespace conclave::transport
