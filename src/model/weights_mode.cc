#include "model/model.h"

namespace conclave::model {

Result<WeightsMode> parse_weights_mode(std::string_view text) {
  if (text == "native") return WeightsMode::kNative;
  if (text == "int8") return WeightsMode::kInt8;
  return invalid_input("--weights: \"" + std::string(text.substr(0, 40)) +
                       "\", expected native or int8");
}

kernels::PackedFormat kept_format(Weight weight, kernels::SourceFormat source, WeightsMode mode) {
  if (weight == Weight::kRouter) return kernels::PackedFormat::kF32;
  if (weight == Weight::kEmbedding || mode == WeightsMode::kNative ||
      source == kernels::SourceFormat::kInt4Group) {
    return kernels::native_format(source);
  }
  return kernels::PackedFormat::kInt8;
}

}  // namespace conclave::model
