#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <string>

#include "base/check.h"
#include "base/rng.h"

namespace conclave::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// exp(-60) of the largest probability: a whole vocabulary of these changes no sum of doubles that
// has the largest in it.
constexpr double kNegligible = -60.0;

bool has_repetition_penalty(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f;
}
bool has_count_penalty(const SamplingParams& params) {
  return params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f;
}

// True in a total order: larger logit first, then lower id.
bool better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// In lanes, so that the compiler may use vectors without reordering anything it must not.
float largest_of(std::span<const float> logits) {
  constexpr std::size_t kLanes = 16;
  std::array<float, kLanes> lanes;
  lanes.fill(-kInfinity);
  std::size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float logit = logits[i + lane];
      lanes[lane] = logit > lanes[lane] ? logit : lanes[lane];
    }
  }
  float largest = *std::max_element(lanes.begin(), lanes.end());
  for (; i < logits.size(); ++i) largest = std::max(largest, logits[i]);
  return largest;
}

Candidate argmax(std::span<const float> logits) {
  const float largest = largest_of(logits);
  const auto at = std::find(logits.begin(), logits.end(), largest);
  CHECK(at != logits.end());
  return {TokenId{static_cast<std::uint32_t>(at - logits.begin())}, largest};
}

// Sum of exp((logit - largest) / temperature).
double softmax_sum(std::span<const float> logits, double largest, double temperature) {
  double sum = 0.0;
  for (const float logit : logits) {
    const double x = (logit - largest) / temperature;
    if (x > kNegligible) sum += std::exp(x);
  }
  return sum;
}

// Without branches in the loop: this pass over the vocabulary is the price of never sampling from
// garbage. -infinity is legal: a token that the model excludes.
Result<void> check_logits(std::span<const float> logits) {
  bool all_valid = true;
  for (const float logit : logits) all_valid &= logit < kInfinity;  // false for NaN, too
  if (all_valid) return {};
  const auto bad =
      std::find_if(logits.begin(), logits.end(), [](float logit) { return !(logit < kInfinity); });
  return corrupt("the logit of token " + std::to_string(bad - logits.begin()) + " is " +
                 (std::isnan(*bad) ? "NaN" : "infinite"));
}

void apply_mask(std::span<const std::uint32_t> mask, std::span<float> logits) {
  CHECK(mask.size() * 32 >= logits.size());
  for (std::size_t id = 0; id < logits.size(); ++id) {
    if ((mask[id / 32] >> (id % 32) & 1u) == 0) logits[id] = -kInfinity;
  }
}

void apply_penalties(const SamplingParams& params, const TokenHistory& history,
                     std::span<float> logits) {
  for (const auto& [id, count] : history.counts()) {
    if (id.value >= logits.size()) continue;
    float& logit = logits[id.value];
    logit = logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count > 0) {
      logit -= params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
    }
  }
}

// -log(-log(1 - v)): v and 1 - v are both uniform, and doubles are finer near 0, where v makes the
// large noise that wins.
double gumbel_of(std::uint64_t bits) { return -std::log(-std::log1p(-unit_interval(bits))); }

// gumbel_of(bits) <= -log(v), and v has a known number of leading zero bits.
double gumbel_bound(std::uint64_t bits) {
  return std::numbers::ln2 * std::min(std::countl_zero(bits) + 1, 54) + 1e-9;
}

// How many to keep: until they hold `mass_wanted`, none below `mass_min`, and always one.
std::size_t kept_prefix(std::span<const double> mass, double mass_wanted, double mass_min) {
  std::size_t n_kept = 1;
  double kept = mass.front();
  while (n_kept < mass.size() && kept < mass_wanted && mass[n_kept] >= mass_min) {
    kept += mass[n_kept++];
  }
  return n_kept;
}

TokenId gumbel_argmax_of(std::span<const Candidate> candidates, double temperature,
                         std::uint64_t key) {
  const Candidate* best = &candidates.front();
  double best_score = -std::numeric_limits<double>::infinity();
  const double largest = candidates.front().logit;
  for (const Candidate& candidate : candidates) {
    const double score =
        (candidate.logit - largest) / temperature + gumbel_noise(key, candidate.id);
    if (score > best_score || (score == best_score && candidate.id < best->id)) {
      best_score = score;
      best = &candidate;
    }
  }
  return best->id;
}

TokenId choose(std::span<const float> logits, const SamplingParams& params, std::size_t index) {
  if (params.temperature == 0.0f) return argmax(logits).id;
  const std::uint64_t key = noise_key(params, index);
  if (params.top_k <= 0 && params.top_p >= 1.0f && params.min_p <= 0.0f) {
    return gumbel_argmax(logits, params.temperature, key);
  }
  return gumbel_argmax_of(filtered(logits, params), params.temperature, key);
}

void add_logprobs(const SampleInput& input, Sampled& sampled) {
  if (input.params.top_logprobs < 0) return;
  const double largest = largest_of(input.logits);
  const double log_sum = std::log(softmax_sum(input.logits, largest, 1.0));
  const auto logprob = [largest, log_sum](float logit) {
    return static_cast<float>(logit - largest - log_sum);
  };
  sampled.logprob = logprob(input.logits[sampled.id.value]);
  const auto n_top = static_cast<std::size_t>(input.params.top_logprobs);
  for (const Candidate& candidate : largest_logits(input.logits, n_top)) {
    sampled.top.push_back({candidate.id, logprob(candidate.logit)});
  }
}

}  // namespace

TokenHistory::TokenHistory(const SamplingParams& params, std::span<const TokenId> prompt,
                           std::span<const TokenId> generated)
    : counts_prompt_(has_repetition_penalty(params)),
      counts_answer_(counts_prompt_ || has_count_penalty(params)) {
  if (counts_prompt_) {
    for (const TokenId id : prompt) counts_.try_emplace(id, 0);
  }
  for (const TokenId id : generated) add(id);
}

void TokenHistory::add(TokenId generated) {
  if (counts_answer_) ++counts_[generated];
}

Result<Sampled> sample(const SampleInput& input) {
  CHECK(!input.logits.empty());
  TRY(check_logits(input.logits));
  const std::vector<float> logits = adjusted_logits(input);
  if (largest_of(logits) == -kInfinity) {
    return invalid_input("no token is left to choose: grammar and banned ids exclude them all");
  }
  Sampled sampled{.id = choose(logits, input.params, input.index), .logprob = 0.0f, .top = {}};
  add_logprobs(input, sampled);
  return sampled;
}

std::vector<float> adjusted_logits(const SampleInput& input) {
  std::vector<float> logits(input.logits.begin(), input.logits.end());
  if (!input.mask.empty()) apply_mask(input.mask, logits);
  for (const TokenId id : input.banned) {
    if (id.value < logits.size()) logits[id.value] = -kInfinity;
  }
  for (const auto& [id, bias] : input.params.logit_bias) {
    if (id.value < logits.size()) logits[id.value] += bias;
  }
  apply_penalties(input.params, input.history, logits);
  return logits;
}

// A heap whose front is the worst kept: nearly all logits fail one comparison with it.
std::vector<Candidate> largest_logits(std::span<const float> logits, std::size_t n) {
  std::vector<Candidate> heap;
  if (n == 0) return heap;
  heap.reserve(std::min(n, logits.size()));
  for (std::size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] == -kInfinity) continue;
    const Candidate candidate{TokenId{static_cast<std::uint32_t>(id)}, logits[id]};
    if (heap.size() == n) {
      if (!better(candidate, heap.front())) continue;
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.back() = candidate;
    } else {
      heap.push_back(candidate);
    }
    std::push_heap(heap.begin(), heap.end(), better);
  }
  std::sort_heap(heap.begin(), heap.end(), better);
  return heap;
}

// Each filter keeps a prefix of the ids in order of their logits, so the shortest prefix decides.
// It is nearly always short: look at the best few, and at more only if these are not enough.
std::vector<Candidate> filtered(std::span<const float> logits, const SamplingParams& params) {
  const bool has_top_k = params.top_k > 0;
  const bool has_top_p = params.top_p < 1.0f;
  const double largest = largest_of(logits);
  const double total =
      has_top_p && !has_top_k ? softmax_sum(logits, largest, params.temperature) : 0.0;

  std::size_t n = has_top_k ? static_cast<std::size_t>(params.top_k) : 256;
  for (;; n *= 8) {
    std::vector<Candidate> best = largest_logits(logits, n);
    const bool sees_all = has_top_k || best.size() < n;
    std::vector<double> mass;  // unnormalised probabilities, 1 for the largest
    for (const Candidate& candidate : best) {
      mass.push_back(std::exp((candidate.logit - largest) / params.temperature));
    }
    double mass_wanted = std::numeric_limits<double>::infinity();
    if (has_top_p && has_top_k) mass_wanted = std::accumulate(mass.begin(), mass.end(), 0.0);
    if (has_top_p && !has_top_k) mass_wanted = total;
    const std::size_t n_kept = kept_prefix(mass, mass_wanted * params.top_p, params.min_p);
    if (n_kept < best.size() || sees_all) {
      best.resize(n_kept);
      return best;
    }
  }
}

std::uint64_t noise_key(const SamplingParams& params, std::size_t index) {
  return hash_combine(hash_combine(mix64(params.seed), params.choice), index);
}

double gumbel_noise(std::uint64_t key, TokenId id) {
  return gumbel_of(hash_combine(key, id.value));
}

// Two logarithms for each of 160,000 ids would take milliseconds. Bounds on the noise rule out
// nearly all ids without changing the winner.
TokenId gumbel_argmax(std::span<const float> logits, float temperature, std::uint64_t key) {
  const Candidate start = argmax(logits);
  const double largest = start.logit;
  const double t = temperature;
  TokenId best = start.id;
  double best_score = gumbel_noise(key, best);
  double floor = largest + t * (best_score - kGumbelMax);  // lower logits cannot win
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] < floor) continue;
    const TokenId id{static_cast<std::uint32_t>(i)};
    const double relative = (logits[i] - largest) / t;
    const std::uint64_t bits = hash_combine(key, id.value);
    if (relative + gumbel_bound(bits) < best_score) continue;
    const double score = relative + gumbel_of(bits);
    if (score > best_score || (score == best_score && id < best)) {
      best = id;
      best_score = score;
      floor = largest + t * (best_score - kGumbelMax);
    }
  }
  return best;
}

}  // namespace conclave::engine
