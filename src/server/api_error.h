// What went wrong with a request, as OpenAI's clients expect to read it.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/result.h"
#include "server/http_server.h"
#include "text/text.h"

namespace conclave::server {

using Json = text::Json;

struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string message;  // one line for a person, naming the field
  std::string param;    // the field; empty: none
  std::string code;     // empty: none
};

// A value, or why there is none.
template <class T>
class Parsed {
 public:
  Parsed(T value) : state_(std::in_place_index<0>, std::move(value)) {}         // NOLINT
  Parsed(ApiError error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT
  explicit operator bool() const { return state_.index() == 0; }
  T& value() { return checked<0>(); }
  ApiError& error() { return checked<1>(); }

 private:
  template <std::size_t kIndex>
  auto& checked() {
    CHECK(state_.index() == kIndex);
    return std::get<kIndex>(state_);
  }

  std::variant<T, ApiError> state_;
};

ApiError field_error(std::string param, const std::string& what);  // "param: what", status 400
// By code: kInvalidInput 400, kNotFound 404, kExhausted 429, kUnavailable 503, the rest 500.
ApiError api_error(const Error& error);

Json error_json(const ApiError& error);  // {"error": {message, type, param, code}}
// With Retry-After for 429 and 503.
HttpResponse error_response(const ApiError& error);
HttpResponse json_response(int status, const Json& body);

// Text of JSON; bytes that are not UTF-8 become U+FFFD.
std::string dump(const Json& json);

}  // namespace conclave::server
