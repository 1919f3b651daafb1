// Element types and name limits, shared by the readers of this module.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "formats/formats.h"

namespace conclave::formats {

inline constexpr std::size_t kHeaderBytesMax = 100'000'000;
inline constexpr std::size_t kIndexBytesMax = 512'000'000;
inline constexpr std::size_t kShardsMax = 4096;
inline constexpr std::size_t kTensorsMax = 4'000'000;
inline constexpr std::size_t kDimensionsMax = 8;
inline constexpr std::size_t kNameBytesMax = 512;

// The type that safetensors spells so, if there is one.
std::optional<DType> parse_dtype(std::string_view text);

// Untrusted text made fit for a one-line message: control bytes become '?', long text is cut.
std::string printable(std::string_view text);

}  // namespace conclave::formats
