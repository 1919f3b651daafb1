#include "engine/admission.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace conclave::engine {
namespace {

constexpr int kTopLogprobsMax = 20;

Result<void> check_ids(std::span<const TokenId> ids, const char* name, std::size_t vocab_size) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i].value < vocab_size) continue;
    return invalid_input(std::string(name) + " token " + std::to_string(i) + " is id " +
                         std::to_string(ids[i].value) + "; the vocabulary has " +
                         std::to_string(vocab_size));
  }
  return {};
}

Result<void> check_range(float value, const char* name, float least, float most) {
  if (value >= least && value <= most) return {};  // false for NaN
  return invalid_input(std::string(name) + " is " + std::to_string(value) +
                       "; it must lie between " + std::to_string(least) + " and " +
                       std::to_string(most));
}

Result<void> check_sampling(const SamplingParams& params, std::size_t vocab_size) {
  TRY(check_range(params.temperature, "temperature", 0.0f, 100.0f));
  TRY(check_range(params.top_p, "top_p", 0.0f, 1.0f));
  TRY(check_range(params.min_p, "min_p", 0.0f, 1.0f));
  TRY(check_range(params.repetition_penalty, "repetition_penalty", 0.01f, 100.0f));
  TRY(check_range(params.presence_penalty, "presence_penalty", -100.0f, 100.0f));
  TRY(check_range(params.frequency_penalty, "frequency_penalty", -100.0f, 100.0f));
  for (const auto& [id, bias] : params.logit_bias) {
    TRY(check_ids({&id, 1}, "logit_bias", vocab_size));
    TRY(check_range(bias, "logit_bias", -1000.0f, 1000.0f));
  }
  if (params.top_k < 0) {
    return invalid_input("top_k is " + std::to_string(params.top_k) + "; it must be 0 or more");
  }
  if (params.top_logprobs < -1 || params.top_logprobs > kTopLogprobsMax) {
    return invalid_input("top_logprobs is " + std::to_string(params.top_logprobs) +
                         "; the most is " + std::to_string(kTopLogprobsMax));
  }
  return {};
}

}  // namespace

Result<std::size_t> check_request(const Request& request, const AdmissionLimits& limits) {
  const std::size_t n_prompt = request.prompt.size();
  if (n_prompt == 0) return invalid_input("the prompt is empty");
  if (n_prompt >= limits.context) {
    return invalid_input("the prompt has " + std::to_string(n_prompt) +
                         " tokens; the context holds " + std::to_string(limits.context) +
                         " with the answer");
  }
  TRY(check_ids(request.prompt, "prompt", limits.vocab_size));
  TRY(check_ids(request.generated, "answer", limits.vocab_size));
  TRY(check_sampling(request.sampling, limits.vocab_size));

  const bool open_ended = request.max_tokens == 0;
  std::size_t n_answer = limits.context - n_prompt;
  if (!open_ended) n_answer = std::min(n_answer, request.max_tokens);
  if (open_ended && n_prompt <= limits.positions) {
    n_answer = std::min(n_answer, limits.positions + 1 - n_prompt);
  }
  if (n_prompt + n_answer - 1 > limits.positions) {
    return exhausted("prompt (" + std::to_string(n_prompt) + " tokens) and max_tokens (" +
                     std::to_string(request.max_tokens) + ") need more KV memory than the " +
                     std::to_string(limits.positions) + " tokens that there is room for");
  }
  return n_answer;
}

}  // namespace conclave::engine
