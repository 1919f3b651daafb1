// The description of a step as rank 0 broadcasts it. Bytes from the network: decoding checks them
// against this rank's limits, so that no index of a step can reach outside memory.
//
// Little-endian u32 throughout:
//   version · rows · sequences · head rows
//   token ids                                          of each row
//   rows · position · flags (1: decode) · page ids     of each sequence; as many pages as it needs
//   rows whose logits are wanted, ascending
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"

namespace conclave::engine {

inline constexpr std::uint32_t kStepMessageVersion = 1;

struct StepMessageLimits {
  std::size_t rows_max = 0;
  std::size_t pages = 0;      // KV pages in the pool
  std::size_t positions = 0;  // of one sequence
  std::size_t vocab_size = 0;
};

// A step that owns what its spans show.
struct DecodedStep {
  DecodedStep() = default;
  DecodedStep(DecodedStep&&) = default;
  DecodedStep& operator=(DecodedStep&&) = default;
  DecodedStep(const DecodedStep&) = delete;
  DecodedStep& operator=(const DecodedStep&) = delete;

  backend::Step step() const { return {tokens, sequences, head_rows}; }

  std::vector<TokenId> tokens;
  std::vector<backend::PageIndex> pages;  // of all sequences, one after the other
  std::vector<backend::SequenceRows> sequences;
  std::vector<std::uint32_t> head_rows;
};

// `out` is replaced.
void encode_step(const backend::Step& step, std::vector<std::byte>& out);
// kCorrupt names the field that is wrong.
Result<DecodedStep> decode_step(std::span<const std::byte> bytes, const StepMessageLimits& limits);

}  // namespace conclave::engine
