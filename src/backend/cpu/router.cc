#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cpu/feed_forward.h"
#include "base/check.h"

namespace conclave::backend {
namespace {

using model::RouterKind;

// The scores that become weights: sigmoid, or softmax over all experts.
std::vector<float> scores_of(const model::ModelConfig& config, const kernels::Operations& ops,
                             std::span<const float> logits) {
  std::vector<float> scores(logits.size());
  if (config.router == RouterKind::kSigmoidBiased) {
    ops.sigmoid(logits, scores.data());
    return scores;
  }
  const float highest = *std::max_element(logits.begin(), logits.end());
  ops.exp_minus(logits, highest, scores.data());
  const float sum = std::accumulate(scores.begin(), scores.end(), 0.0f);
  for (float& score : scores) score /= sum;
  return scores;
}

// A group counts by the sum of its two best biased scores in V3, by its best score in V2.
float group_score(RouterKind kind, std::span<const float> group) {
  float best = -INFINITY;
  float second = -INFINITY;
  for (const float x : group) {
    if (x > best) {
      second = best;
      best = x;
    } else if (x > second) {
      second = x;
    }
  }
  if (kind == RouterKind::kSoftmaxGroupLimited) return best;
  return group.size() > 1 ? best + second : best;
}

// The `k` best of `values`, ties to the lower index.
std::vector<std::size_t> best_of(std::span<const float> values, std::size_t k) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(),
                    [values](std::size_t a, std::size_t b) {
                      return values[a] != values[b] ? values[a] > values[b] : a < b;
                    });
  order.resize(k);
  return order;
}

// Losing groups can never be chosen: -inf, not 0 (docs/models.md 2.6).
void mask_losing_groups(const model::ModelConfig& config, std::span<float> choice) {
  const std::size_t size = choice.size() / config.n_group;
  std::vector<float> by_group(config.n_group);
  for (std::size_t g = 0; g < config.n_group; ++g) {
    by_group[g] = group_score(config.router, choice.subspan(g * size, size));
  }
  std::vector<bool> kept(config.n_group, false);
  for (const std::size_t g : best_of(by_group, config.topk_group)) kept[g] = true;
  for (std::size_t e = 0; e < choice.size(); ++e) {
    if (!kept[e / size]) choice[e] = -INFINITY;
  }
}

}  // namespace

void choose_experts(const model::ModelConfig& config, const kernels::Operations& ops,
                    std::span<const float> logits, std::span<const float> bias,
                    std::span<const ExpertId> forced, const ChosenExperts& chosen) {
  const auto& [ids, weights] = chosen;
  const std::vector<float> scores = scores_of(config, ops, logits);
  if (!forced.empty()) {
    std::copy(forced.begin(), forced.end(), ids.begin());
  } else {
    std::vector<float> choice = scores;
    for (std::size_t e = 0; e < choice.size(); ++e) choice[e] += bias[e];
    const bool grouped = config.router != RouterKind::kSoftmaxGreedy && config.n_group > 1;
    if (grouped) mask_losing_groups(config, choice);
    const std::vector<std::size_t> best = best_of(choice, ids.size());
    for (std::size_t k = 0; k < ids.size(); ++k) {
      ids[k] = ExpertId{static_cast<std::uint16_t>(best[k])};
    }
  }
  std::sort(ids.begin(), ids.end());
  float sum = 0.0f;
  for (std::size_t k = 0; k < ids.size(); ++k) {
    weights[k] = scores[ids[k].value];
    sum += weights[k];
  }
  // V2 scales only where it does not normalise; V3 does both (docs/models.md 2.6, 2.7).
  const bool sigmoid = config.router == RouterKind::kSigmoidBiased;
  for (float& weight : weights) {
    if (config.norm_topk_prob) weight /= sum + 1e-20f;
    if (sigmoid || !config.norm_topk_prob) weight *= config.routed_scaling_factor;
  }
}

Routing FeedForward::route(const CommonLayer& w, const Rows& x, std::span<const ExpertId> forced) {
  const std::size_t n = x.size();
  const std::size_t experts = config_.n_experts;
  const std::size_t k = config_.experts_per_token;
  CHECK(forced.empty() || forced.size() == n * k);
  logits_.resize(n * experts);
  expert_ids_.resize(n * k);
  expert_weights_.resize(n * k);
  for (auto& tile : tiles_) tile.resize(std::max(tile.size(), context_.tile_size(n)));
  const Product product[] = {{&w.router, x.view(), logits_.data(), experts}};
  multiply(context_, product, tiles_);
  context_.pool.parallel_for(n, [&](std::size_t row, std::size_t) {
    if (!w.router_logit_bias.empty()) {
      context_.ops.axpy(1.0f, w.router_logit_bias, logits_.data() + row * experts);
    }
    choose_experts(config_, context_.ops, {logits_.data() + row * experts, experts}, w.router_bias,
                   forced.empty() ? forced : forced.subspan(row * k, k),
                   {std::span(expert_ids_).subspan(row * k, k),
                    std::span(expert_weights_).subspan(row * k, k)});
  });
  return {expert_ids_, expert_weights_};
}

}  // namespace conclave::backend
