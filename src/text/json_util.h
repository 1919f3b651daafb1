// Small readers for JSON that may have any shape.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "text/text.h"

namespace conclave::text {

// Deeper JSON is refused before anything recurses into it; serde_json stops at 128.
inline constexpr int kJsonDepthMax = 100;

// The member, or null when `value` is no object or has none of that name.
const Json* member(const Json& value, std::string_view name);

// The member's string, or "" when it is absent or no string.
std::string string_member(const Json& value, std::string_view name);

// Whether arrays and objects nest deeper than `levels`.
bool nests_deeper(const Json& value, int levels);

// Text for the bridge; bytes that are not UTF-8 become U+FFFD.
std::string json_text(const Json& value);

// As Python's json.dumps(value, ensure_ascii=False) spaces it: `{"a": [1, 2]}`.
std::string python_json(const Json& value);

// Errors name the file. An object is expected; a missing file counts as an empty one.
Result<Json> read_json_file(const std::filesystem::path& path, std::size_t size_max);

}  // namespace conclave::text
