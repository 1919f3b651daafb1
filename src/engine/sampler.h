// Chooses the next token from one row of logits. Pure functions: no state, no clock.
//
// In this order:
//   1. banned ids and ids that the grammar excludes can never be chosen
//   2. logit_bias is added
//   3. repetition penalty (tokens of prompt and answer), then presence and frequency penalty
//      (tokens of the answer)
//   4. temperature 0: the largest logit, the lowest id among equals
//   5. else logits / temperature; top_k, then top_p of what top_k kept, then min_p relative to the
//      largest probability
//   6. Gumbel-max over what is left: the largest of logit / temperature + g(id), which draws from
//      the softmax of these. g is a hash of (seed, choice, index, id), so a seed gives the same
//      token whatever else runs, and filters change which ids compete but no id's noise.
// Log-probabilities are of the model: log-softmax of the unmodified logits at temperature 1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "engine/engine.h"

namespace conclave::engine {

// How often the penalties' tokens occurred; remembers nothing when no penalty is set.
class TokenHistory {
 public:
  TokenHistory(const SamplingParams& params, std::span<const TokenId> prompt,
               std::span<const TokenId> generated);
  void add(TokenId generated);

  // Times in the answer, by id; 0 for an id that only the prompt has.
  const std::unordered_map<TokenId, std::uint32_t>& counts() const { return counts_; }

 private:
  bool counts_prompt_ = false;
  bool counts_answer_ = false;
  std::unordered_map<TokenId, std::uint32_t> counts_;
};

struct SampleInput {
  std::span<const float> logits;  // [vocab], as the model gave them
  const SamplingParams& params;
  std::span<const TokenId> banned;      // ids outside the vocabulary are ignored
  std::span<const std::uint32_t> mask;  // one bit an id, 1: allowed; empty: all are
  const TokenHistory& history;
  std::size_t index = 0;  // of the token in the answer
};

struct Sampled {
  TokenId id;
  float logprob = 0.0f;           // with params.top_logprobs >= 0
  std::vector<TokenLogprob> top;  // params.top_logprobs of them, best first
};

// Errors: a logit that is NaN or +infinity; no token left to choose.
Result<Sampled> sample(const SampleInput& input);

// ---- The steps of `sample` ----------------------------------------------------------------------

// Steps 1 to 3: -infinity for what can never be chosen.
std::vector<float> adjusted_logits(const SampleInput& input);

struct Candidate {
  TokenId id;
  float logit = 0.0f;
};
// The `n` largest logits, largest first, the lower id first among equals. Leaves out -infinity.
std::vector<Candidate> largest_logits(std::span<const float> logits, std::size_t n);

// Step 5: what the filters keep, largest first. Needs a finite logit and temperature > 0.
std::vector<Candidate> filtered(std::span<const float> logits, const SamplingParams& params);

// Step 6: the part of the hash that is the same for all ids.
std::uint64_t noise_key(const SamplingParams& params, std::size_t index);
// g(id), from Gumbel's distribution; at most kGumbelMax.
double gumbel_noise(std::uint64_t key, TokenId id);
inline constexpr double kGumbelMax = 37.43;  // -log(2^-54), rounded up

// The largest of logit / temperature + g(id) over the whole vocabulary, in one pass.
TokenId gumbel_argmax(std::span<const float> logits, float temperature, std::uint64_t key);

}  // namespace conclave::engine
