// The tensors of a synthetic checkpoint: official names and shapes (docs/models.md 4.2, 4.3).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "apps/synth_model.h"
#include "formats/formats.h"

namespace conclave::apps {

// What the bytes of a tensor are.
enum class SynthFill : std::uint8_t {
  kOnes,        // BF16
  kNormal,      // BF16, gaussian
  kNormalInt8,  // BF16, gaussian on a grid of 255 steps per group of 32 inputs
  kFp8,         // e4m3, gaussian
  kFp8Scale,    // F32, uniform around the mean
  kInt4,        // eight random nibbles a word
  kInt4Scale,   // BF16, uniform around the mean
  kBias,        // F32, small gaussian
  kShape,       // I32: the logical rows and columns of a packed matrix
};

struct SynthTensor {
  std::string name;
  formats::DType dtype = formats::DType::kBF16;
  std::vector<std::size_t> shape;
  SynthFill fill = SynthFill::kNormal;
  // Standard deviation of the (dequantised) weights: 1 / sqrt(inputs), so that values neither grow
  // nor shrink through the layers.
  float deviation = 1.0f;
  std::array<std::int32_t, 2> logical{};  // kShape

  std::uint64_t size_bytes() const;
};

// In the order of the layers; the embedding, head and last norm come first.
std::vector<SynthTensor> tensor_table(const SynthModel& model);

}  // namespace conclave::apps
