// Is a request valid, and how long may its answer become?
#pragma once

#include <cstddef>

#include "base/result.h"
#include "engine/engine.h"

namespace conclave::engine {

struct AdmissionLimits {
  std::size_t vocab_size = 0;
  std::size_t context = 0;    // tokens of prompt and answer together
  std::size_t positions = 0;  // that the KV pages hold in all
};

// Tokens that the answer may have, at least 1. The KV of an answer's last token is never written,
// so a request needs `prompt.size() + answer - 1` positions.
//
// kInvalidInput: empty prompt, no room for an answer in the context, an id outside the vocabulary,
// a sampling parameter out of range. kExhausted: `max_tokens` more than the KV pages can ever
// hold. Without `max_tokens` the answer ends where the context or the KV memory does.
Result<std::size_t> check_request(const Request& request, const AdmissionLimits& limits);

}  // namespace conclave::engine
