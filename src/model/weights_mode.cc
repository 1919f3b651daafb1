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

// Small, and what is lost here every later token meets again in the cache; of the head, what is
// lost goes straight into the choice of a token.
bool is_delicate(Weight weight) {
  switch (weight) {
    case Weight::kKvA:
    case Weight::kKvB:
    case Weight::kK:
    case Weight::kV:
    case Weight::kHead:
      return true;
    default:
      return false;
  }
}

}  // namespace

kernels::PackedFormat kept_format(Weight weight, kernels::SourceFormat source, WeightsMode mode) {
  if (weight == Weight::kRouter) return kernels::PackedFormat::kF32;
  const kernels::PackedFormat native = kernels::native_format(source);
  if (weight == Weight::kEmbedding || mode == WeightsMode::kNative) return native;
  if (mode == WeightsMode::kInt8 || is_delicate(weight)) {
    return kernels::is_integer(native) ? native : kernels::PackedFormat::kInt8;
  }
  return is_four_bits(native) ? native : kernels::PackedFormat::kInt4;
}

std::optional<MatrixPart> stored_part(const MatrixPart& part) {
  const kernels::HeadMatrices* heads = part.matrix.heads;
  if (heads == nullptr) return part;
  const std::size_t width = heads->nope + heads->v;
  const std::size_t head = part.rows.begin / width;
  const Range rows = {part.rows.begin - head * width, part.rows.end - head * width};
  if (head >= heads->heads || rows.end > width) return std::nullopt;
  if (part.transposed && rows.end <= heads->nope) {
    const std::size_t first = head * part.matrix.cols;
    return MatrixPart{heads->key_up, {first + part.cols.begin, first + part.cols.end}, rows, false};
  }
  if (part.transposed || rows.begin < heads->nope) return std::nullopt;
  const std::size_t first = head * heads->v;
  return MatrixPart{heads->value_up,
                    {first + rows.begin - heads->nope, first + rows.end - heads->nope},
                    part.cols,
                    false};
}

bool is_in_groups(const MatrixPart& stored) {
  return stored.cols.begin % kernels::kGroup == 0 && stored.cols.end % kernels::kGroup == 0 &&
         !stored.transposed;
}

kernels::PackedFormat kept_format(Weight weight, const MatrixPart& stored, WeightsMode mode) {
  const kernels::PackedFormat format = kept_format(weight, stored.matrix.format, mode);
  if (is_in_groups(stored) || !kernels::keeps_groups(stored.matrix.format, format)) return format;
  return mode == WeightsMode::kNative ? kernels::PackedFormat::kF32 : kernels::PackedFormat::kInt8;
}

}  // namespace conclave::model
