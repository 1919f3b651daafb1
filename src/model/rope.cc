#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/model.h"

namespace conclave::model {
namespace {

// YaRN's attention temperature. Equation numbers differ between papers; docs/models.md 3 is the
// source.
double amplitude(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// The dimension whose wave turns `rotations` times over the original context.
double dimension_of(const RopeConfig& rope, double d, double rotations) {
  return d * std::log(rope.original_max_positions / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.theta));
}

void interpolate(const RopeConfig& rope, double d, std::span<double> inv_freq) {
  double low = dimension_of(rope, d, rope.beta_fast);
  double high = dimension_of(rope, d, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1.0);  // d - 1, not d / 2 - 1, as the reference does
  if (low == high) high += 0.001;
  for (std::size_t j = 0; j < inv_freq.size(); ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    inv_freq[j] = inv_freq[j] / rope.factor * ramp + inv_freq[j] * (1.0 - ramp);
  }
}

}  // namespace

RopeTable rope_table(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  const auto d = static_cast<double>(config.qk_rope_head_dim);
  RopeTable table;
  table.inv_freq.resize(config.qk_rope_head_dim / 2);
  for (std::size_t j = 0; j < table.inv_freq.size(); ++j) {
    table.inv_freq[j] = std::pow(rope.theta, -2.0 * static_cast<double>(j) / d);
  }
  table.softmax_scale = 1.0 / std::sqrt(static_cast<double>(config.qk_head_dim()));
  if (!rope.yarn) return table;

  interpolate(rope, d, table.inv_freq);
  const double all_dim = amplitude(rope.factor, rope.mscale_all_dim);
  table.rotation_scale =
      rope.attention_factor.value_or(amplitude(rope.factor, rope.mscale) / all_dim);
  if (rope.mscale_all_dim != 0.0) table.softmax_scale *= all_dim * all_dim;
  return table;
}

}  // namespace conclave::model
