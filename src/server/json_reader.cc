#include "server/json_reader.h"

#include <algorithm>
#include <cmath>

namespace conclave::server {
namespace {

constexpr std::size_t kExcerptMax = 60;

struct Shape {
  std::size_t depth = 0;   // deepest nesting
  std::size_t values = 0;  // an upper bound
};

// Counts brackets and separators outside strings, before a parser takes memory for them.
Shape shape_of(std::string_view text) {
  Shape shape;
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') shape.depth = std::max(shape.depth, ++depth);
    if ((c == ']' || c == '}') && depth > 0) --depth;
    if (c == '[' || c == '{' || c == ',') ++shape.values;
  }
  return shape;
}

std::string number_text(double number) {
  std::string text = std::to_string(number);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text;
}

}  // namespace

std::string excerpt(const Json& value) {
  std::string text = dump(value);
  if (text.size() <= kExcerptMax) return text;
  std::size_t end = kExcerptMax;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;
  text.resize(end);
  return text + "...";
}

Parsed<Json> parse_json(std::string_view text) {
  const Shape shape = shape_of(text);
  if (shape.depth > kJsonDepthMax) {
    return ApiError{.message = "the body nests " + std::to_string(shape.depth) +
                               " levels deep; the limit is " + std::to_string(kJsonDepthMax),
                    .param = {},
                    .code = {}};
  }
  if (shape.values > kJsonValuesMax) {
    return ApiError{
        .message = "the body has more than " + std::to_string(kJsonValuesMax) + " JSON values",
        .param = {},
        .code = {}};
  }
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return ApiError{.message = "the body is not valid JSON", .param = {}, .code = {}};
  }
  if (!json.is_object()) {
    return ApiError{.message = "the body must be a JSON object, found " + excerpt(json),
                    .param = {},
                    .code = {}};
  }
  return json;
}

const Json* FieldReader::find(std::string_view name) const {
  const auto place = object_.find(std::string(name));
  return place == object_.end() || place->is_null() ? nullptr : &*place;
}

std::optional<double> FieldReader::number(std::string_view name, double least, double most) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (number >= least && number <= most) return number;
  fail(name, "expected a number from " + number_text(least) + " to " + number_text(most) +
                 ", found " + excerpt(*value));
  return std::nullopt;
}

std::optional<std::int64_t> FieldReader::integer(std::string_view name, std::int64_t least,
                                                 std::int64_t most) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  std::optional<std::int64_t> number;
  if (value->is_number_unsigned()) {
    // Above int64 only a seed makes sense: the same 64 bits.
    number = static_cast<std::int64_t>(value->get<std::uint64_t>());
    if (*number < 0 && most != INT64_MAX) number.reset();
  } else if (value->is_number_integer()) {
    number = value->get<std::int64_t>();
  } else if (value->is_number_float()) {
    const double real = value->get<double>();  // 10.0 from clients without integers
    if (std::trunc(real) == real && std::abs(real) < 0x1p53) {
      number = static_cast<std::int64_t>(real);
    }
  }
  if (number && *number >= least && *number <= most) return number;
  fail(name, "expected a whole number from " + std::to_string(least) + " to " +
                 std::to_string(most) + ", found " + excerpt(*value));
  return std::nullopt;
}

std::optional<bool> FieldReader::boolean(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  fail(name, "expected true or false, found " + excerpt(*value));
  return std::nullopt;
}

std::optional<std::string> FieldReader::string(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  fail(name, "expected a string, found " + excerpt(*value));
  return std::nullopt;
}

const Json* FieldReader::object(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_object()) return value;
  fail(name, "expected an object, found " + excerpt(*value));
  return nullptr;
}

const Json* FieldReader::array(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_array()) return value;
  fail(name, "expected an array, found " + excerpt(*value));
  return nullptr;
}

void FieldReader::fail(std::string_view name, const std::string& what) {
  if (!error_) error_ = field_error(prefix_ + std::string(name), what);
}

void FieldReader::fail(ApiError error) {
  if (!error_) error_ = std::move(error);
}

}  // namespace conclave::server
