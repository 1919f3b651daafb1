// POST /v1/chat/completions: OpenAI's request to the internal one. Unknown fields are ignored.
#pragma once

#include "server/api_error.h"
#include "server/generate_request.h"

namespace conclave::server {

struct ChatDefaults {
  std::size_t vocab_size = 0;
  Json generation = Json::object();  // generation_config.json: "temperature", "top_p", ...
};

// Errors name the field, what it may be and what was found.
Parsed<GenerateRequest> parse_chat_request(const Json& body, const ChatDefaults& defaults);

}  // namespace conclave::server
