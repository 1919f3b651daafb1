// What `conclave model synth` makes: the shape of a published family with random weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/result.h"
#include "model/model.h"

namespace conclave::apps {

// How the linear layers are stored. `official` is resolved per family before it gets here.
enum class SynthQuant : std::uint8_t {
  kInt4,       // routed experts compressed-tensors INT4 g32, the rest BF16
  kFp8,        // all linear layers FP8 in blocks of 128 x 128
  kInt8Exact,  // BF16 whose values `--weights int8` keeps without loss
  kBf16,
};

struct SynthRequest {
  std::string like;    // "kimi-k2", "deepseek-v3", "qwen3-30b", "ember"; empty with a preset
  std::string preset;  // "m1", "m2", "m3" or empty
  std::string quant = "official";
  std::optional<std::size_t> layers;
  std::optional<std::size_t> dense;  // layers without experts, from the first
  std::optional<std::size_t> experts;
  std::optional<std::size_t> vocab;
  std::optional<std::size_t> context;
  std::uint64_t seed = 0;
};

struct SynthModel {
  model::ModelConfig config;
  SynthQuant quant = SynthQuant::kBf16;
  std::uint64_t seed = 0;
};

// The last 256 ids of the vocabulary are Kimi's special tokens, in Kimi's order
// (docs/models.md 6.1).
inline constexpr std::size_t kSpecialTokens = 256;
inline constexpr std::size_t kByteTokens = 256;

// Errors: an unknown family or preset, sizes that contradict each other, a family that this build
// cannot run.
Result<SynthModel> synth_model(const SynthRequest& request);

// config.json as the family's publisher writes it.
nlohmann::ordered_json config_json(const SynthModel& model);

}  // namespace conclave::apps
