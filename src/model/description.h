// What config.json says, with the parts that matter only to the loader.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/fields.h"
#include "model/model.h"

namespace conclave::model {

enum class QuantMethod : std::uint8_t {
  kNone,
  kInt4Group,  // compressed-tensors pack-quantized, 4 or 8 bits
  kFp8Block,   // e4m3, blocks of 128 x 128
  kMxfp4,      // experts alone, as gpt-oss has them
  kMlx,        // MLX's affine and mxfp4, each module as its tensors' shapes say
};

// What some of the packed or MLX matrices are.
struct QuantScheme {
  std::size_t bits = 0;
  std::size_t group = 0;     // inputs that share a scale; 0: all of a row
  bool zero_points = false;  // packed alone
  bool operator==(const QuantScheme&) const = default;
};
struct Quantization {
  QuantMethod method = QuantMethod::kNone;
  std::vector<QuantScheme> schemes;  // of kInt4Group and kMlx; a matrix follows one of them
  bool operator==(const Quantization&) const = default;
};

// What a family says about rotation beyond the fields themselves.
struct RopeDefaults {
  double theta = 10000.0;     // where config.json says none
  double rotary_share = 1.0;  // partial_rotary_factor, as the family has read it
};

struct Description {
  std::string text;  // of config.json; of GGUF one with the same meaning
  ModelConfig config;
  std::string tensor_prefix;           // "language_model." or nothing
  std::string_view moe_block = "mlp";  // what holds router and experts, in a layer
  std::array<std::string_view, 3> expert_modules = {"gate_proj", "up_proj", "down_proj"};
  std::string_view router_module = "gate";
  RopeDefaults rope_defaults;
  bool has_vision = false;       // vision_tower.*, mm_projector.* may be there
  bool tied_head = false;        // the head is the embedding; no lm_head.weight
  bool own_head_wins = false;    // nested configs: an lm_head that is there is used nonetheless
  std::size_t n_mtp_layers = 0;  // may follow the model's own layers
  Quantization quantization;
};

Result<Description> parse_description(std::string_view json, std::string_view label);
// Of a folder or a GGUF file.
Result<Description> read_description(const std::filesystem::path& path);

// `rope_theta`, `rope_scaling`, `rope_parameters`: both generations of transformers.
Result<RopeConfig> read_rope(const Fields& fields, const RopeDefaults& defaults = {});

// One `quantization_config`, or MLX's `quantization`; kNone when there is none.
Result<Quantization> read_quantization(const Fields& owner);

// The shapes and ranges of the router fields that depend on each other.
Result<void> check_router(const Fields& fields, const ModelConfig& config);

// Stretched rotation that a family's own code would compute otherwise.
Result<void> refuse_other_stretch(const Fields& fields, const Description& description);

// Fields that would change the result in a way this engine does not compute.
Result<void> refuse_other_maths(const Fields& fields, const Description& description);

}  // namespace conclave::model
