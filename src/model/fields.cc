#include "model/fields.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>
#include <vector>

namespace conclave::model {
namespace {

using nlohmann::json;

// The deepest nesting of brackets outside strings. Text that is not JSON gives some number.
std::size_t nesting_depth(std::string_view text) {
  std::size_t depth = 0;
  std::size_t deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

// A value as a message shows it: one line, cut.
std::string shown(const json* value) {
  if (value == nullptr) return "missing";
  constexpr std::size_t kShownMax = 80;
  std::string text = value->dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > kShownMax) text = text.substr(0, kShownMax) + "...";
  return text;
}

std::string number_text(double value) { return json(value).dump(); }

}  // namespace

Result<JsonObject> parse_json_object(std::string_view text, std::string_view label_text) {
  const std::string label(label_text);
  if (text.size() > kConfigBytesMax) {
    return invalid_input(label + ": " + std::to_string(text.size()) + " bytes, limit " +
                         std::to_string(kConfigBytesMax));
  }
  if (nesting_depth(text) > kConfigDepthMax) {
    return invalid_input(label + ": nested deeper than " + std::to_string(kConfigDepthMax));
  }
  // The parser keeps the last of two equal keys; which one other readers take is not defined.
  std::vector<std::unordered_set<std::string>> open_objects;
  std::string doubled;
  const auto watch_keys = [&open_objects, &doubled](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == json::parse_event_t::object_end) open_objects.pop_back();
    if (event == json::parse_event_t::key &&
        !open_objects.back().insert(value.get<std::string>()).second && doubled.empty()) {
      doubled = shown(&value);
    }
    return true;
  };
  json root = json::parse(text, watch_keys, /*allow_exceptions=*/false);
  if (root.is_discarded()) return corrupt(label + ": not valid JSON");
  if (!root.is_object()) return corrupt(label + ": not a JSON object");
  if (!doubled.empty()) return corrupt(label + ": " + doubled + ": named twice in one object");
  return JsonObject{std::move(root)};
}

const json* Fields::find(std::string_view field) const {
  for (const json* object : {first_, second_}) {
    if (object == nullptr) continue;
    const auto place = object->find(field);
    if (place != object->end()) return place->is_null() ? nullptr : &*place;
  }
  return nullptr;
}

// "config.json: rope_scaling" and "factor" give "config.json: rope_scaling.factor".
std::string Fields::path(std::string_view field) const {
  const char* const separator = where_.find(": ") == std::string::npos ? ": " : ".";
  constexpr std::size_t kShownMax = 120;
  const json name = field.size() <= kShownMax ? field : field.substr(0, kShownMax);
  const std::string escaped = shown(&name);
  return where_ + separator + escaped.substr(1, escaped.size() - 2);
}

std::string Fields::message(std::string_view field, const std::string& expected) const {
  return path(field) + ": " + shown(find(field)) + ", expected " + expected;
}

Error Fields::invalid(std::string_view field, const std::string& expected) const {
  return invalid_input(message(field, expected));
}

Error Fields::not_supported(std::string_view field, const std::string& expected) const {
  return unsupported(message(field, expected));
}

Result<std::size_t> Fields::count(std::string_view field, CountLimits limits) const {
  const json* value = find(field);
  const std::string expected = limits.min == limits.max
                                   ? std::to_string(limits.min)
                                   : "a whole number from " + std::to_string(limits.min) + " to " +
                                         std::to_string(limits.max);
  if (value == nullptr || !value->is_number_unsigned()) return invalid(field, expected);
  const auto number = value->get<std::uint64_t>();
  if (number < limits.min || number > limits.max) return invalid(field, expected);
  return number;
}

Result<std::size_t> Fields::count_or(std::string_view field, std::size_t otherwise,
                                     CountLimits limits) const {
  if (find(field) == nullptr) return otherwise;
  return count(field, limits);
}

Result<double> Fields::number(std::string_view field, NumberLimits limits) const {
  const json* value = find(field);
  const std::string expected =
      "a number from " + number_text(limits.min) + " to " + number_text(limits.max);
  if (value == nullptr || !value->is_number()) return invalid(field, expected);
  const auto number = value->get<double>();
  if (!std::isfinite(number) || number < limits.min || number > limits.max) {
    return invalid(field, expected);
  }
  return number;
}

Result<double> Fields::number_or(std::string_view field, double otherwise,
                                 NumberLimits limits) const {
  if (find(field) == nullptr) return otherwise;
  return number(field, limits);
}

Result<bool> Fields::flag(std::string_view field) const {
  const json* value = find(field);
  if (value == nullptr || !value->is_boolean()) return invalid(field, "true or false");
  return value->get<bool>();
}

Result<bool> Fields::flag_or(std::string_view field, bool otherwise) const {
  if (find(field) == nullptr) return otherwise;
  return flag(field);
}

Result<std::string> Fields::text(std::string_view field) const {
  const json* value = find(field);
  if (value == nullptr || !value->is_string()) return invalid(field, "text");
  return value->get<std::string>();
}

Result<std::string> Fields::text_or(std::string_view field, std::string_view otherwise) const {
  if (find(field) == nullptr) return std::string(otherwise);
  return text(field);
}

Result<std::optional<Fields>> Fields::object(std::string_view field) const {
  const json* value = find(field);
  if (value == nullptr) return std::optional<Fields>();
  if (!value->is_object()) return invalid(field, "an object");
  return std::optional<Fields>(Fields(path(field), *value));
}

Result<void> Fields::expect(std::string_view field, const json& wanted) const {
  const json* value = find(field);
  if (value == nullptr || *value != wanted) return not_supported(field, shown(&wanted));
  return {};
}

Result<void> Fields::expect_if_present(std::string_view field, const json& wanted) const {
  if (find(field) == nullptr) return {};
  return expect(field, wanted);
}

Result<void> Fields::expect_only(std::initializer_list<std::string_view> known) const {
  for (const auto& [key, value] : first_->items()) {
    if (value.is_null() || std::ranges::find(known, key) != known.end()) continue;
    return not_supported(key, "no such field");
  }
  return {};
}

}  // namespace conclave::model
