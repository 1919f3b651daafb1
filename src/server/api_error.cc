#include "server/api_error.h"

namespace conclave::server {
namespace {

constexpr const char* kRetryAfterSeconds = "2";

Json text_or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

}  // namespace

ApiError field_error(std::string param, const std::string& what) {
  std::string message = param + ": " + what;
  return {.message = std::move(message), .param = std::move(param), .code = {}};
}

ApiError api_error(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalidInput:
    case ErrorCode::kUnsupported:
      return {.message = error.message, .param = {}, .code = {}};
    case ErrorCode::kNotFound:
      return {
          .status = 404, .type = "not_found", .message = error.message, .param = {}, .code = {}};
    case ErrorCode::kExhausted:
      return {.status = 429,
              .type = "rate_limit_error",
              .message = error.message,
              .param = {},
              .code = "too_many_requests"};
    case ErrorCode::kUnavailable:
      return {.status = 503,
              .type = "unavailable_error",
              .message = error.message,
              .param = {},
              .code = "unavailable"};
    case ErrorCode::kCorrupt:
      break;
  }
  return {.status = 500, .type = "server_error", .message = error.message, .param = {}, .code = {}};
}

Json error_json(const ApiError& error) {
  Json inner = Json::object();
  inner["message"] = error.message;
  inner["type"] = error.type;
  inner["param"] = text_or_null(error.param);
  inner["code"] = text_or_null(error.code);
  Json outer = Json::object();
  outer["error"] = std::move(inner);
  return outer;
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response = json_response(error.status, error_json(error));
  if (error.status == 429 || error.status == 503) {
    response.headers.emplace_back("Retry-After", kRetryAfterSeconds);
  }
  return response;
}

HttpResponse json_response(int status, const Json& body) {
  return {.status = status, .headers = {{"Content-Type", "application/json"}}, .body = dump(body)};
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace conclave::server
