// What two ranks say first on a connection, the caller before the other: 48 bytes, little-endian.
//
//   0 magic u32 · 4 version u8 · 5 flags u8 · 6 n_ranks u16 · 8 cluster u64 · 16 epoch u32
//   20 rank u16 · 22 to u16 · 24 lane u8 x 16 · 40 zero u32 · 44 checksum u32
//
// Where both have offered shared memory, one byte follows from each, the caller first: whether it
// has the lane (shm_lane.h). If both have, it takes the connection's place.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "transport/transport.h"

namespace conclave::transport {

inline constexpr std::size_t kHelloSize = 48;

using LaneName = std::array<std::byte, 16>;

struct Hello {
  std::uint64_t cluster = 0;
  std::uint32_t epoch = 0;
  std::uint16_t n_ranks = 0;
  Rank rank = 0;               // of who speaks
  Rank to = 0;                 // whom it believes to speak to
  bool shared_memory = false;  // offered
  LaneName lane{};             // where the acceptor takes the lane
  bool operator==(const Hello&) const = default;
};

std::array<std::byte, kHelloSize> encode(const Hello& hello);
// kCorrupt names the field that is wrong; ranks are within n_ranks, and that within kRanksMax.
Result<Hello> decode_hello(std::span<const std::byte, kHelloSize> bytes);

// Whether `hello` is what rank `from` of this group would say to us; the error says why not.
Result<void> check_hello(const Hello& hello, const GroupSpec& spec, Rank from);

// A connection is in clear only where the owner marked both of its ends.
bool link_is_clear(const GroupSpec& spec, Rank peer);

}  // namespace conclave::transport
