#include "text/call_body.h"

#include <algorithm>

#include "text/call_header.h"
#include "text/json_util.h"

namespace conclave::text {
namespace {

constexpr std::string_view kFunction = "<function=";
constexpr std::string_view kParameter = "<parameter=";
constexpr std::string_view kEndParameter = "</parameter>";
constexpr std::string_view kEndFunction = "</function>";
constexpr std::string_view kKey = "<arg_key>";
constexpr std::string_view kEndKey = "</arg_key>";
constexpr std::string_view kValue = "<arg_value>";
constexpr std::string_view kEndValue = "</arg_value>";

std::optional<Json> parse_json(std::string_view text) {
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded() || nests_deeper(value, kJsonDepthMax)) return std::nullopt;
  return value;
}

bool is_name(std::string_view text) {
  constexpr std::string_view kLegal =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-";
  return !text.empty() && text.find_first_not_of(kLegal) == text.npos;
}

// Whether a schema is satisfied by a text. Clients write optional ones as a list of types, or as
// anyOf; an enum may do without a type.
bool takes_text(const Json& schema) {
  const auto says_string = [](const Json& type) { return type == Json("string"); };
  if (const Json* type = member(schema, "type")) {
    if (says_string(*type)) return true;
    if (type->is_array() && std::ranges::any_of(*type, says_string)) return true;
  }
  if (const Json* values = member(schema, "enum"); values != nullptr && values->is_array()) {
    return std::ranges::any_of(*values, [](const Json& value) { return value.is_string(); });
  }
  for (const char* either : {"anyOf", "oneOf"}) {
    const Json* schemas = member(schema, either);
    if (schemas != nullptr && schemas->is_array() && std::ranges::any_of(*schemas, takes_text)) {
      return true;
    }
  }
  return false;
}

// What stands between `begin` and the next `end`; `text` goes on behind that.
std::optional<std::string_view> take_between(std::string_view& text, std::string_view begin,
                                             std::string_view end) {
  const std::size_t from = text.find(begin);
  if (from == text.npos) return std::nullopt;
  const std::size_t to = text.find(end, from + begin.size());
  if (to == text.npos) return std::nullopt;
  const std::string_view found = text.substr(from + begin.size(), to - from - begin.size());
  text.remove_prefix(to + end.size());
  return found;
}

// The line breaks that the template puts around a value are not the value's.
std::string_view without_line_breaks(std::string_view text) {
  if (text.starts_with('\n')) text.remove_prefix(1);
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

std::optional<CallBody> parse_object(std::string_view body) {
  const std::optional<Json> call = parse_json(body);
  if (!call || !call->is_object()) return std::nullopt;
  const std::string name = string_member(*call, "name");
  if (name.empty()) return std::nullopt;
  const Json* arguments = member(*call, "arguments");
  if (arguments == nullptr) return CallBody{name, "{}"};
  // Some models write the object as a string, as OpenAI's own messages do.
  if (arguments->is_string()) {
    const std::string text = arguments->get<std::string>();
    return CallBody{name, trimmed(text).empty() ? "{}" : text};
  }
  return CallBody{name, python_json(*arguments)};
}

std::optional<CallBody> parse_function(std::string_view body, const ToolTypes& types) {
  body.remove_prefix(kFunction.size());
  const std::size_t end = body.find('>');
  if (end == body.npos || end == 0) return std::nullopt;
  const std::string name(trimmed(body.substr(0, end)));
  body.remove_prefix(end + 1);
  body = body.substr(0, body.rfind(kEndFunction));
  Json arguments = Json::object();
  for (std::size_t at = body.find(kParameter); at != body.npos; at = body.find(kParameter)) {
    body.remove_prefix(at + kParameter.size());
    const std::size_t close = body.find('>');
    if (close == body.npos) return std::nullopt;
    const std::string key(trimmed(body.substr(0, close)));
    body.remove_prefix(close + 1);
    // Some models forget the end of a parameter.
    const std::size_t stop = std::min(body.find(kEndParameter), body.find(kParameter));
    arguments[key] = types.value(name, key, without_line_breaks(body.substr(0, stop)));
    body.remove_prefix(std::min(stop, body.size()));
  }
  return CallBody{name, python_json(arguments)};
}

std::optional<CallBody> parse_pairs(std::string_view body, const ToolTypes& types) {
  const std::size_t end = std::min(body.find(kKey), body.find('\n'));
  const std::string name(trimmed(body.substr(0, end)));
  if (!is_name(name)) return std::nullopt;
  body.remove_prefix(std::min(end, body.size()));
  const std::string_view rest = trimmed(body);
  if (rest.empty() ? !types.has(name) : !rest.starts_with(kKey)) return std::nullopt;
  Json arguments = Json::object();
  while (const auto key = take_between(body, kKey, kEndKey)) {
    const auto value = take_between(body, kValue, kEndValue);
    if (!value) break;
    const std::string parameter(trimmed(*key));
    arguments[parameter] = types.value(name, parameter, *value);
  }
  return CallBody{name, python_json(arguments)};
}

}  // namespace

ToolTypes::ToolTypes(const Json& tools) {
  if (!tools.is_array()) return;
  for (const Json& tool : tools) {
    const Json* function = member(tool, "function");
    if (function == nullptr) continue;
    auto& text = text_parameters_[string_member(*function, "name")];
    const Json* parameters = member(*function, "parameters");
    const Json* properties = parameters == nullptr ? nullptr : member(*parameters, "properties");
    if (properties == nullptr || !properties->is_object()) continue;
    for (const auto& [key, schema] : properties->items()) {
      if (!nests_deeper(schema, kJsonDepthMax) && takes_text(schema)) text.insert(key);
    }
  }
}

bool ToolTypes::has(std::string_view tool) const { return text_parameters_.contains(tool); }

Json ToolTypes::value(std::string_view tool, std::string_view parameter,
                      std::string_view written) const {
  const auto found = text_parameters_.find(tool);
  const bool is_text = found != text_parameters_.end() && found->second.contains(parameter);
  if (is_text && trimmed(written) != "null") return std::string(written);
  const std::optional<Json> parsed = parse_json(trimmed(written));
  return parsed ? *parsed : Json(std::string(written));
}

std::optional<CallBody> parse_call_body(std::string_view body, const ToolTypes& types) {
  body = trimmed(body);
  if (body.starts_with('{')) return parse_object(body);
  if (body.starts_with(kFunction)) return parse_function(body, types);
  return parse_pairs(body, types);
}

}  // namespace conclave::text
