#include <cmath>
#include <utility>

#include "model/description.h"

namespace conclave::model {
namespace {

constexpr NumberLimits kTheta{1.0 + 1e-6, 1e15};
constexpr NumberLimits kFactor{1.0, 1e6};
constexpr NumberLimits kBeta{1e-6, 1e6};
constexpr NumberLimits kMscale{0.0, 1e3};
constexpr NumberLimits kPositions{1.0, 1e9};
constexpr NumberLimits kAttentionFactor{1e-6, 1e6};

// transformers 4 says `type`, 5 says `rope_type`, and files in between say both.
Result<std::string> read_type(const Fields& dict) {
  const bool has_new = dict.find("rope_type") != nullptr;
  const bool has_old = dict.find("type") != nullptr;
  if (has_new && has_old && *dict.find("rope_type") != *dict.find("type")) {
    return dict.invalid("type", "the same as rope_type");
  }
  if (has_new) return dict.text("rope_type");
  // Without scaling fields a missing type means that theta is all there is to say.
  if (!has_old && dict.find("factor") == nullptr) return std::string("default");
  return dict.text("type");
}

Result<double> read_theta(const Fields& fields, const Fields* dict, double otherwise) {
  const double outer = TRY(fields.number_or("rope_theta", otherwise, kTheta));
  if (dict == nullptr || dict->find("rope_theta") == nullptr) return outer;
  const double inner = TRY(dict->number("rope_theta", kTheta));
  if (fields.find("rope_theta") != nullptr && inner != outer) {
    return dict->invalid("rope_theta", "the same as rope_theta outside");
  }
  return inner;
}

// Fills in what `rope_parameters` may leave open: the model was not stretched, or by the ratio of
// the two lengths. In `rope_scaling` both fields have to be there.
Result<void> read_stretch(const Fields& dict, const Fields* config, RopeConfig& rope) {
  const bool has_original = dict.find("original_max_position_embeddings") != nullptr;
  const bool has_factor = dict.find("factor") != nullptr;
  if (has_factor || config == nullptr) rope.factor = TRY(dict.number("factor", kFactor));
  if (has_original || config == nullptr) {
    rope.original_max_positions = TRY(dict.number("original_max_position_embeddings", kPositions));
  }
  if (has_original && has_factor) return {};
  const double positions = TRY(config->number("max_position_embeddings", kPositions));
  if (!has_original) rope.original_max_positions = positions;
  if (!has_factor) rope.factor = positions / rope.original_max_positions;
  if (rope.factor < kFactor.min || rope.factor > kFactor.max) {
    return dict.invalid("original_max_position_embeddings",
                        "at most max_position_embeddings where there is no factor");
  }
  return {};
}

Result<RopeConfig> read_yarn(const Fields& dict, const Fields* config) {
  TRY(dict.expect_only({"type", "rope_type", "rope_theta", "factor",
                        "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale",
                        "mscale_all_dim", "truncate", "attention_factor", "max_position_embeddings",
                        "partial_rotary_factor"}));
  RopeConfig rope;
  rope.yarn = true;
  TRY(read_stretch(dict, config, rope));
  rope.beta_fast = TRY(dict.number_or("beta_fast", rope.beta_fast, kBeta));
  rope.beta_slow = TRY(dict.number_or("beta_slow", rope.beta_slow, kBeta));
  rope.mscale = TRY(dict.number_or("mscale", rope.mscale, kMscale));
  rope.mscale_all_dim = TRY(dict.number_or("mscale_all_dim", rope.mscale_all_dim, kMscale));
  rope.truncate = TRY(dict.flag_or("truncate", true));
  if (dict.find("attention_factor") != nullptr) {
    rope.attention_factor = TRY(dict.number("attention_factor", kAttentionFactor));
  }
  return rope;
}

// `config` is what the dict lies in, for rope_parameters; nullptr for rope_scaling.
Result<RopeConfig> read_dict(const Fields& dict, const Fields* config, double rotary_share) {
  const std::string type = TRY(read_type(dict));
  TRY(dict.expect_if_present("partial_rotary_factor", rotary_share));
  if (type == "yarn") return read_yarn(dict, config);
  if (type == "default") {
    TRY(dict.expect_only(
        {"type", "rope_type", "rope_theta", "max_position_embeddings", "partial_rotary_factor"}));
    return RopeConfig{};
  }
  const char* field = dict.find("rope_type") != nullptr ? "rope_type" : "type";
  return dict.not_supported(field, "\"yarn\" or \"default\"");
}

}  // namespace

Result<RopeConfig> read_rope(const Fields& fields, const RopeDefaults& defaults) {
  const std::optional<Fields> scaling = TRY(fields.object("rope_scaling"));
  const std::optional<Fields> parameters = TRY(fields.object("rope_parameters"));
  RopeConfig rope;
  if (scaling) rope = TRY(read_dict(*scaling, nullptr, defaults.rotary_share));
  if (parameters) {
    const RopeConfig newer = TRY(read_dict(*parameters, &fields, defaults.rotary_share));
    if (scaling && newer != rope) {
      return fields.invalid("rope_parameters", "the same as rope_scaling");
    }
    rope = newer;
  }
  rope.theta = TRY(read_theta(fields, scaling ? &*scaling : nullptr, defaults.theta));
  if (parameters) {
    const double newer = TRY(read_theta(fields, &*parameters, defaults.theta));
    const bool scaling_says = scaling && scaling->find("rope_theta") != nullptr;
    if (scaling_says && newer != rope.theta) {
      return parameters->invalid("rope_theta", "the same as in rope_scaling");
    }
    rope.theta = newer;
  }
  return rope;
}

}  // namespace conclave::model
