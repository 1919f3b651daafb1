#include "text/json_util.h"

#include <system_error>

#include "base/mapped_file.h"

namespace conclave::text {

const Json* member(const Json& value, std::string_view name) {
  if (!value.is_object()) return nullptr;
  const auto found = value.find(name);
  return found == value.end() ? nullptr : &*found;
}

std::string string_member(const Json& value, std::string_view name) {
  const Json* found = member(value, name);
  return found != nullptr && found->is_string() ? found->get<std::string>() : std::string();
}

bool nests_deeper(const Json& value, int levels) {
  if (!value.is_structured()) return false;
  if (levels <= 0) return true;
  for (const Json& child : value) {
    if (nests_deeper(child, levels - 1)) return true;
  }
  return false;
}

std::string json_text(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string python_json(const Json& value) {
  if (!value.is_structured()) return json_text(value);
  std::string out(1, value.is_array() ? '[' : '{');
  for (auto it = value.begin(); it != value.end(); ++it) {
    if (it != value.begin()) out += ", ";
    if (value.is_object()) out += json_text(it.key()) + ": ";
    out += python_json(*it);
  }
  return out + (value.is_array() ? ']' : '}');
}

Result<Json> read_json_file(const std::filesystem::path& path, std::size_t size_max) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return Json::object();
  const std::string text = TRY(read_text_file(path, size_max));
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return invalid_input(path.string() + ": expected a JSON object");
  if (nests_deeper(json, kJsonDepthMax)) {
    return invalid_input(path.string() + ": nested deeper than " + std::to_string(kJsonDepthMax));
  }
  return json;
}

}  // namespace conclave::text
