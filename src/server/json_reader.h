// Reads a client's JSON: bounded parsing, and fields with errors that name them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/api_error.h"

namespace conclave::server {

inline constexpr std::size_t kJsonDepthMax = 100;         // of arrays and objects in each other
inline constexpr std::size_t kJsonValuesMax = 1'000'000;  // a value takes up to 100 bytes of memory

// 400 for what is no JSON, nests too deep or has too many values.
Parsed<Json> parse_json(std::string_view text);

// Reads fields of one object. The first error stays and is asked for at the end, so that the
// reading code has no branches. An absent field and one that is null are the same.
class FieldReader {
 public:
  // `object` must be an object and outlive the reader. `prefix`: "stream_options."
  explicit FieldReader(const Json& object, std::string prefix = {})
      : object_(object), prefix_(std::move(prefix)) {}

  const Json* find(std::string_view name) const;  // nullptr: absent or null
  std::optional<double> number(std::string_view name, double least, double most);
  std::optional<std::int64_t> integer(std::string_view name, std::int64_t least, std::int64_t most);
  std::optional<bool> boolean(std::string_view name);
  std::optional<std::string> string(std::string_view name);
  const Json* object(std::string_view name);
  const Json* array(std::string_view name);

  void fail(std::string_view name, const std::string& what);
  void fail(ApiError error);
  const std::optional<ApiError>& error() const { return error_; }

 private:
  const Json& object_;
  std::string prefix_;
  std::optional<ApiError> error_;
};

// A value for an error message: at most 60 characters of its JSON.
std::string excerpt(const Json& value);

}  // namespace conclave::server
