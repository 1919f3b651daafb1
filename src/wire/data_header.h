// The header of every message between ranks: 32 bytes, little-endian, before its payload.
//
//   0 magic u32 · 4 version u8 · 5 kind u8 · 6 layer u16 · 8 epoch u32 · 12 step u32
//   16 sequence u32 · 20 size u32 · 24 phase u8 · 25 zero u8 x 3 · 28 checksum u32
//
// The checksum covers the 28 bytes before it: a stream that lost its place is noticed at once. It
// is the low half of base/rng.h's hash_combine over the u64 at 0, 8 and 16 and the u32 at 24, from
// 0. The payload is covered by TLS, or by TCP on links that the owner marked private.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace conclave::wire {

inline constexpr std::size_t kDataHeaderSize = 32;
inline constexpr std::uint32_t kDataMagic = 0x31564e43;  // "CNV1"
inline constexpr std::uint8_t kDataVersion = 1;
inline constexpr std::size_t kDataSizeMax = std::size_t{256} << 20;  // of a payload
inline constexpr std::uint16_t kNoLayer = 0xffff;

enum class DataKind : std::uint8_t {
  kStep,     // rank 0 to all: the rows of a step and their embeddings
  kPartial,  // partial sums [R, H] of the sender's virtual ranks, to every peer
  kScatter,  // large exchanges: partial sums of the rows that the receiver sums
  kGather,   // large exchanges: the sums of the sender's rows
  kRepair,   // a rank that routed differently sends its partial sums again
  kHead,     // to rank 0: logits of the sender's rows of the vocabulary
  kHidden,   // hidden rows, from one stage of a pipeline to the next
};
inline constexpr std::uint8_t kDataKindLast = static_cast<std::uint8_t>(DataKind::kHidden);

enum class Phase : std::uint8_t { kOutside, kAttention, kFeedForward };
inline constexpr std::uint8_t kPhaseLast = static_cast<std::uint8_t>(Phase::kFeedForward);

struct DataHeader {
  DataKind kind = DataKind::kStep;
  Phase phase = Phase::kOutside;
  std::uint16_t layer = kNoLayer;
  std::uint32_t epoch = 0;
  std::uint32_t step = 0;      // counts in each epoch from 0
  std::uint32_t sequence = 0;  // of this direction in this epoch; the transport's
  std::uint32_t size = 0;      // bytes of payload; the transport's
  bool operator==(const DataHeader&) const = default;
};

std::array<std::byte, kDataHeaderSize> encode(const DataHeader& header);
// kCorrupt names the field that is wrong.
Result<DataHeader> decode_data_header(std::span<const std::byte, kDataHeaderSize> bytes);

}  // namespace conclave::wire
