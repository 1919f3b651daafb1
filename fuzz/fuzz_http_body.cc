// Bodies of POST /v1/chat/completions, and the strings of a request's head, from arbitrary bytes:
// no crash; what is refused names its reason; what is accepted keeps its limits.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "server/chat_api.h"
#include "server/http_rules.h"
#include "server/json_reader.h"

namespace conclave::server {
namespace {

void check_error(const ApiError& error) {
  CHECK(error.status >= 400 && error.status < 600);
  CHECK(!error.message.empty());
  CHECK(!error_response(error).body.empty());
}

void check_request(const GenerateRequest& request) {
  CHECK(request.n >= 1 && request.n <= 16);
  CHECK(!request.prompt.messages.empty());
  CHECK(!request.max_tokens || *request.max_tokens >= 1);
  CHECK(request.sampling.temperature >= 0.0f && request.sampling.temperature <= 2.0f);
  CHECK(request.sampling.top_logprobs >= -1 && request.sampling.top_logprobs <= 20);
  for (const auto& [id, bias] : request.sampling.logit_bias) CHECK(id.value < 8192);
  for (const std::string& stop : request.stop) CHECK(!stop.empty());
}

void fuzz_body(std::string_view bytes) {
  auto json = parse_json(bytes);
  if (!json) return check_error(json.error());
  auto request = parse_chat_request(json.value(), {.vocab_size = 8192});
  if (!request) return check_error(request.error());
  check_request(request.value());
}

void fuzz_head(std::string_view bytes) {
  const std::string path = route_path(bytes);
  CHECK(!path.empty());
  CHECK(path == "/" || !path.ends_with('/'));
  const std::string_view half = bytes.substr(0, bytes.size() / 2);
  static_cast<void>(host_allowed(half, "served"));
  static_cast<void>(origin_kind(bytes, half));
}

}  // namespace
}  // namespace conclave::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  conclave::server::fuzz_body(bytes);
  conclave::server::fuzz_head(bytes);
  return 0;
}
