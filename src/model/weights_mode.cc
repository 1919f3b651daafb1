#include <algorithm>

#include "model/model.h"

namespace conclave::model {

Result<WeightsMode> parse_weights_mode(std::string_view text) {
  const auto found = std::ranges::find(kWeightsModes, text);
  if (found != kWeightsModes.end()) {
    return static_cast<WeightsMode>(found - kWeightsModes.begin());
  }
  return invalid_input("--weights: \"" + std::string(text.substr(0, 40)) +
                       "\", expected native, int8 or int4");
}

std::string_view name(WeightsMode mode) { return kWeightsModes[static_cast<std::size_t>(mode)]; }

namespace {

bool is_four_bits(kernels::PackedFormat format) {
  return format == kernels::PackedFormat::kInt4 || format == kernels::PackedFormat::kMxfp4 ||
         format == kernels::PackedFormat::kInt4Affine;
}

}  // namespace

kernels::PackedFormat kept_format(Weight weight, kernels::SourceFormat source, WeightsMode mode) {
  if (weight == Weight::kRouter) return kernels::PackedFormat::kF32;
  const kernels::PackedFormat native = kernels::native_format(source);
  const bool narrow =
      mode == WeightsMode::kInt8 ? kernels::is_integer(native) : is_four_bits(native);
  if (weight == Weight::kEmbedding || mode == WeightsMode::kNative || narrow) return native;
  if (mode == WeightsMode::kInt8) return kernels::PackedFormat::kInt8;
  switch (weight) {
    // Small, and what is lost here every later token meets again in the cache; of the head, what is
    // lost goes straight into the choice of a token.
    case Weight::kKvA:
    case Weight::kKvB:
    case Weight::kK:
    case Weight::kV:
    case Weight::kHead:
      return kernels::PackedFormat::kInt8;
    default:
      return kernels::PackedFormat::kInt4;
  }
}

}  // namespace conclave::model
