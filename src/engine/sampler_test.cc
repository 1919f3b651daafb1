#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "base/rng.h"

namespace conclave::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::uint64_t seed, std::size_t n, double range = 12.0) {
  SplitMix random(seed);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = static_cast<float>(range * (random.uniform() - 0.5));
  return logits;
}

std::vector<double> softmax(std::span<const float> logits, double temperature) {
  const double largest = *std::ranges::max_element(logits);
  std::vector<double> p;
  for (const float logit : logits) p.push_back(std::exp((logit - largest) / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

struct Case {
  std::vector<float> logits;
  SamplingParams params;
  std::vector<TokenId> prompt = {};
  std::vector<TokenId> generated = {};
  std::vector<TokenId> banned = {};
  std::vector<std::uint32_t> mask = {};
  std::size_t index = 0;

  Result<Sampled> sample() const {
    const TokenHistory history(params, prompt, generated);
    return engine::sample(input(history));
  }
  std::vector<float> adjusted() const {
    const TokenHistory history(params, prompt, generated);
    return adjusted_logits(input(history));
  }
  SampleInput input(const TokenHistory& history) const {
    return {.logits = logits,
            .params = params,
            .banned = banned,
            .mask = mask,
            .history = history,
            .index = index};
  }
};

// Chi-square of draws at many indices against expected probabilities; ids of probability 0 must
// never be drawn. The bound is far in the tail (about p = 1e-6 for the sizes used here).
void expect_distribution(Case c, std::span<const double> expected) {
  constexpr std::size_t kDraws = 20'000;
  std::vector<double> drawn(expected.size());
  for (c.index = 0; c.index < kDraws; ++c.index) {
    const auto sampled = c.sample();
    ASSERT_TRUE(sampled);
    drawn[sampled->id.value] += 1.0;
  }
  double chi_square = 0.0;
  double degrees = -1.0;
  for (std::size_t id = 0; id < expected.size(); ++id) {
    const double wanted = expected[id] * kDraws;
    if (wanted == 0.0) {
      EXPECT_EQ(drawn[id], 0.0) << "id " << id;
      continue;
    }
    degrees += 1.0;
    chi_square += (drawn[id] - wanted) * (drawn[id] - wanted) / wanted;
  }
  EXPECT_LT(chi_square, degrees + 5.0 * std::sqrt(2.0 * degrees) + 10.0);
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  Case c{.logits = {1.0f, 3.0f, -2.0f, 3.0f}, .params = {.temperature = 0.0f}};
  EXPECT_EQ(c.sample()->id, TokenId{1});
  c.banned = {TokenId{1}};
  EXPECT_EQ(c.sample()->id, TokenId{3});
}

TEST(Sampler, DrawsFollowTheSoftmax) {
  Case c{.logits = random_logits(1, 12, 4.0), .params = {.temperature = 0.8f, .seed = 7}};
  expect_distribution(c, softmax(c.logits, 0.8));
}

TEST(Sampler, FilteredDrawsFollowTheRenormalisedSoftmax) {
  Case c{.logits = {0.0f, 1.0f, 2.0f, 1.5f, -1.0f, 0.5f}, .params = {.top_k = 3, .seed = 8}};
  std::vector<float> kept = c.logits;
  for (const std::size_t id : {0u, 4u, 5u}) kept[id] = -kInfinity;
  expect_distribution(c, softmax(kept, 1.0));
}

TEST(Sampler, ChoicesAndSeedsAreIndependent) {
  Case a{.logits = std::vector<float>(64, 0.0f), .params = {.seed = 1}};
  Case b = a;
  b.params.choice = 1;
  Case other_seed = a;
  other_seed.params.seed = 2;
  std::size_t same_choice = 0;
  std::size_t same_seed = 0;
  for (a.index = 0; a.index < 1000; ++a.index) {
    b.index = other_seed.index = a.index;
    const TokenId id = a.sample()->id;
    EXPECT_EQ(id, a.sample()->id);
    same_choice += id == b.sample()->id ? 1 : 0;
    same_seed += id == other_seed.sample()->id ? 1 : 0;
  }
  EXPECT_LT(same_choice, 50u);  // about 16 of 1000 by chance
  EXPECT_LT(same_seed, 50u);
}

// The bounds that skip ids must not change the winner.
TEST(Sampler, PrunedPassFindsTheSameTokenAsTheFullOne) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const auto logits = random_logits(seed, 1 + seed * 3, seed % 2 == 0 ? 2.0 : 60.0);
    const float temperature = 0.3f + static_cast<float>(seed % 5) * 0.5f;
    const std::uint64_t key = mix64(seed);
    double best_score = -std::numeric_limits<double>::infinity();
    TokenId best;
    const double largest = *std::ranges::max_element(logits);
    for (std::uint32_t id = 0; id < logits.size(); ++id) {
      const double t = temperature;
      const double score = (logits[id] - largest) / t + gumbel_noise(key, TokenId{id});
      if (score > best_score) best = TokenId{id};
      best_score = std::max(best_score, score);
    }
    ASSERT_EQ(gumbel_argmax(logits, temperature, key), best) << "seed " << seed;
  }
}

TEST(Sampler, NoiseStaysBelowItsBound) {
  double largest = 0.0;
  for (std::uint32_t id = 0; id < 100'000; ++id) {
    largest = std::max(largest, gumbel_noise(99, TokenId{id}));
  }
  EXPECT_LT(largest, kGumbelMax);
  EXPECT_GT(largest, 7.0);  // the median of the largest of 100,000 is 11.9
}

std::vector<std::uint32_t> ids_of(std::span<const Candidate> candidates) {
  std::vector<std::uint32_t> ids;
  for (const Candidate& candidate : candidates) ids.push_back(candidate.id.value);
  return ids;
}

// The filters written down plainly: sort everything, then cut.
std::vector<std::uint32_t> filtered_plainly(const std::vector<float>& logits,
                                            const SamplingParams& params) {
  std::vector<std::uint32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0u);
  std::erase_if(ids, [&](std::uint32_t id) { return logits[id] == -kInfinity; });
  std::ranges::stable_sort(ids, [&](auto a, auto b) { return logits[a] > logits[b]; });
  if (params.top_k > 0 && ids.size() > static_cast<std::size_t>(params.top_k)) {
    ids.resize(static_cast<std::size_t>(params.top_k));
  }
  std::vector<float> kept;
  for (const std::uint32_t id : ids) kept.push_back(logits[id]);
  const std::vector<double> p = softmax(kept, params.temperature);
  std::size_t n = 0;
  double sum = 0.0;
  while (n < ids.size() && (n == 0 || params.top_p >= 1.0f || sum < params.top_p) &&
         p[n] >= params.min_p * p[0]) {
    sum += p[n++];
  }
  ids.resize(n);
  return ids;
}

TEST(Sampler, FiltersKeepTheSameIdsAsSortingEverything) {
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    SplitMix random(seed);
    const std::size_t n = 1 + random.next() % 3000;
    std::vector<float> logits = random_logits(seed, n, 1.0 + 20.0 * random.uniform());
    for (float& logit : logits) {
      if (random.next() % 3 == 0) logit = std::round(logit);  // ties
      if (random.next() % 10 == 0) logit = -kInfinity;
    }
    logits[random.next() % n] = 0.25f;
    SamplingParams params;
    params.temperature = static_cast<float>(0.2 + 2.0 * random.uniform());
    if (random.next() % 2 == 0) params.top_k = static_cast<int>(1 + random.next() % 400);
    if (random.next() % 2 == 0) params.top_p = static_cast<float>(random.uniform());
    if (random.next() % 2 == 0) params.min_p = static_cast<float>(0.2 * random.uniform());
    ASSERT_EQ(ids_of(filtered(logits, params)), filtered_plainly(logits, params))
        << "seed " << seed;
  }
}

TEST(Sampler, ExtremeFiltersKeepOneToken) {
  const std::vector<float> logits{1.0f, 2.0f, 2.0f};
  for (const SamplingParams& params : {SamplingParams{.top_p = 0.0f}, SamplingParams{.top_k = 1}}) {
    EXPECT_EQ(ids_of(filtered(logits, params)), (std::vector<std::uint32_t>{1}));
  }
  EXPECT_EQ(ids_of(filtered(logits, {.min_p = 1.0f})), (std::vector<std::uint32_t>{1, 2}));
}

TEST(Sampler, TinyTemperatureIsGreedy) {
  Case c{.logits = random_logits(3, 100), .params = {.temperature = 1e-40f}};
  const TokenId drawn = c.sample()->id;
  c.params.temperature = 0.0f;
  EXPECT_EQ(drawn, c.sample()->id);
}

TEST(Sampler, PenaltiesChangeTheTokensTheyShould) {
  Case c{
      .logits = {2.0f, -2.0f, 2.0f, 2.0f},
      .params = {.repetition_penalty = 2.0f, .presence_penalty = 0.5f, .frequency_penalty = 0.25f},
      .prompt = {TokenId{0}, TokenId{0}, TokenId{1}},
      .generated = {TokenId{1}, TokenId{2}, TokenId{2}}};
  // Repetition: prompt and answer. Presence and frequency: the answer alone.
  EXPECT_EQ(c.adjusted(), (std::vector<float>{1.0f, -4.0f - 0.75f, 1.0f - 1.0f, 2.0f}));
  c.params.repetition_penalty = 1.0f;
  EXPECT_EQ(c.adjusted(), (std::vector<float>{2.0f, -2.75f, 1.0f, 2.0f}));
  c.params = {};
  EXPECT_EQ(c.adjusted(), c.logits);
}

TEST(Sampler, BiasAddsButNeverUnbans) {
  Case c{.logits = {0.0f, 0.0f, 0.0f}, .params = {.logit_bias = {{TokenId{1}, 5.0f}}}};
  EXPECT_EQ(c.adjusted(), (std::vector<float>{0.0f, 5.0f, 0.0f}));
  c.banned = {TokenId{1}, TokenId{999}};
  EXPECT_EQ(c.adjusted(), (std::vector<float>{0.0f, -kInfinity, 0.0f}));
}

TEST(Sampler, MaskExcludesAcrossWords) {
  Case c{.logits = random_logits(5, 70), .params = {.seed = 3}, .mask = {0x80000001u, 0u, 0x3u}};
  for (c.index = 0; c.index < 200; ++c.index) {
    const std::uint32_t id = c.sample()->id.value;
    EXPECT_TRUE(id == 0 || id == 31 || id == 64 || id == 65) << id;
  }
}

TEST(Sampler, NothingLeftToChooseIsAnError) {
  Case c{.logits = {1.0f, 2.0f}, .params = {}, .banned = {TokenId{0}}, .mask = {0x1u}};
  const auto sampled = c.sample();
  ASSERT_FALSE(sampled);
  EXPECT_NE(sampled.error().message.find("no token is left"), std::string::npos);
}

TEST(Sampler, NanAndInfinityAreErrorsEvenWhereBanned) {
  Case c{.logits = {1.0f, std::nanf(""), 2.0f}, .params = {}, .banned = {TokenId{1}}};
  EXPECT_EQ(c.sample().error().message, "the logit of token 1 is NaN");
  c.logits[1] = kInfinity;
  EXPECT_EQ(c.sample().error().message, "the logit of token 1 is infinite");
  c.logits[1] = -kInfinity;
  EXPECT_TRUE(c.sample());
}

TEST(Sampler, LogprobsAreOfTheUnmodifiedModel) {
  Case c{.logits = random_logits(11, 20),
         .params = {.temperature = 0.5f,
                    .top_k = 2,
                    .logit_bias = {{TokenId{4}, 100.0f}},
                    .top_logprobs = 20}};
  const auto sampled = c.sample();
  ASSERT_TRUE(sampled);
  EXPECT_EQ(sampled->id, TokenId{4});
  const std::vector<double> p = softmax(c.logits, 1.0);
  EXPECT_NEAR(sampled->logprob, std::log(p[4]), 1e-5);
  ASSERT_EQ(sampled->top.size(), 20u);
  double sum = 0.0;
  for (std::size_t i = 0; i < 20; ++i) {
    const TokenLogprob& top = sampled->top[i];
    EXPECT_NEAR(top.logprob, std::log(p[top.id.value]), 1e-5);
    if (i > 0) {
      EXPECT_LE(top.logprob, sampled->top[i - 1].logprob);
    }
    sum += std::exp(top.logprob);
  }
  EXPECT_NEAR(sum, 1.0, 1e-5);
}

TEST(Sampler, LogprobsOnlyWhenAsked) {
  Case c{.logits = random_logits(11, 20), .params = {}};
  EXPECT_TRUE(c.sample()->top.empty());
  EXPECT_EQ(c.sample()->logprob, 0.0f);
  c.params.top_logprobs = 0;
  EXPECT_TRUE(c.sample()->top.empty());
  EXPECT_LT(c.sample()->logprob, 0.0f);
}

}  // namespace
}  // namespace conclave::engine
