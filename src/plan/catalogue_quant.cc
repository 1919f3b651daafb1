// Formats of weights by name, and how conclave keeps a checkpoint.
#include <charconv>
#include <cmath>
#include <string>
#include <vector>

#include "plan/catalogue.h"
#include "plan/catalogue_tables.h"

namespace conclave::plan {
namespace {

struct NamedFormat {
  std::string_view name;
  Format format;
  double bits;  // per parameter, scales and biases included
};
// docs/models.md 5 has the layouts.
constexpr NamedFormat kFormatNames[] = {
    {"int4-g32", Format::kInt4, 4.5},  // 16-bit scale each 32
    {"int4-g32-bias", Format::kInt4, 5.0},
    {"int4-g64-bias", Format::kInt4, 4.5},
    {"int8-g32", Format::kInt8, 8.5},
    {"int8", Format::kInt8, 8.0},  // one scale a row
    {"int8-g64-bias", Format::kInt8, 8.5},
    {"fp8-128", Format::kFp8, 8.0 + 32.0 / 16384.0},  // 32-bit scale each 128 x 128
    {"mxfp4", Format::kInt4, 4.25},                   // 8-bit scale each 32
    {"q4_k", Format::kInt4, 4.5},
    {"q6_k", Format::kInt8, 6.5625},
    {"q8_0", Format::kInt8, 8.5},
    {"bf16", Format::kBf16, 16.0},
    {"f16", Format::kBf16, 16.0},
    {"f32", Format::kF32, 32.0},
};

// Which kernels read a matrix of so many bits per parameter.
Format format_of_bits(double bits) {
  if (bits <= 6.0) return Format::kInt4;
  if (bits <= 9.0) return Format::kInt8;
  return bits <= 16.0 ? Format::kBf16 : Format::kF32;
}

}  // namespace

Result<PartFormat> parse_part_format(std::string_view text) {
  for (const NamedFormat& named : kFormatNames) {
    if (text != named.name) continue;
    return PartFormat{named.format, named.bits / 8.0, /*scale_only=*/text == "int4-g32"};
  }
  double bits = 0.0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, bits);
  const bool is_number = error == std::errc() && stop == end;
  if (is_number && bits >= 0.5 && bits <= 64.0) {
    return PartFormat{format_of_bits(bits), bits / 8.0};
  }
  if (is_number) {
    return invalid_input(shown_text(text) + " bits per parameter, expected 0.5 to 64");
  }
  std::vector<std::string_view> names;
  for (const NamedFormat& named : kFormatNames) names.push_back(named.name);
  return invalid_input("no format \"" + shown_text(text) + "\", nor a number of bits" +
                       closest_names(text, names));
}

Quant quant_of(model::WeightsMode mode, PartFormat experts, PartFormat rest) {
  constexpr PartFormat kInt8{Format::kInt8, 8.5 / 8.0};
  constexpr PartFormat kInt4{Format::kInt4, 4.5 / 8.0, /*scale_only=*/true};
  const auto kept = [mode, kInt8, kInt4](PartFormat shipped) {
    if (mode == model::WeightsMode::kNative || shipped.format == Format::kInt4) return shipped;
    return mode == model::WeightsMode::kInt8 ? kInt8 : kInt4;
  };
  Quant quant;
  quant.name = model::name(mode);
  quant.parts.fill(kept(rest));
  quant.of(Part::kRouted) = kept(experts);
  if (mode == model::WeightsMode::kInt4) {
    quant.of(Part::kHead) = quant.of(Part::kAttentionSmall) = kInt8;
  }
  // model::kept_format: the router is float32 in every mode, and the embedding keeps its bytes.
  quant.of(Part::kRouter) = PartFormat{Format::kF32, 4.0};
  quant.of(Part::kEmbedding) = rest;
  quant.kv_bytes_per_element = 2.0;  // the cache is BF16
  return quant;
}

}  // namespace conclave::plan
