#include "backend/cpu/attention.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/grouped_attention.h"
#include "backend/cpu/latent_attention.h"

namespace conclave::backend {

std::unique_ptr<Attention> make_attention(const model::ModelConfig& config,
                                          const CpuContext& context) {
  if (config.is_grouped()) return std::make_unique<GroupedAttention>(config, context);
  return std::make_unique<LatentAttention>(config, context);
}

void project_out(const CpuContext& context, std::size_t layer, std::size_t hidden_size,
                 std::span<AttentionSlice> slices, std::span<float* const> outs,
                 std::vector<std::vector<float>>& tiles) {
  if (slices.empty()) return;
  const std::size_t n = slices.front().attended.size();
  const auto o_of = [layer](const AttentionSlice& slice) -> const kernels::PackedMatrix& {
    return slice.weights->layers[layer].o;
  };
  const bool rounded = std::ranges::any_of(
      slices, [&](const AttentionSlice& slice) { return context.rounds(o_of(slice)); });
  if (rounded) {
    context.pool.parallel_for(n, [&](std::size_t row, std::size_t) {
      for (AttentionSlice& slice : slices) slice.attended.round_row(context.ops, row);
    });
  }
  std::vector<Product> products;
  for (std::size_t s = 0; s < slices.size(); ++s) {
    if (o_of(slices[s]).rows == 0) {
      std::fill_n(outs[s], n * hidden_size, 0.0f);
      continue;
    }
    products.push_back({&o_of(slices[s]), slices[s].attended.view(), outs[s], hidden_size});
  }
  multiply(context, products, tiles);
  for (std::size_t s = 0; s < slices.size(); ++s) {
    const std::vector<float>& bias = slices[s].weights->layers[layer].o_bias;
    if (bias.empty()) continue;
    for (std::size_t row = 0; row < n; ++row) {
      context.ops.axpy(1.0f, bias, outs[s] + row * hidden_size);
    }
  }
}

StepRows::StepRows(const model::ModelConfig& config)
    : interleaved_(config.rope_interleaved), rope_(model::rope_table(config)) {}

void StepRows::begin(const Step& step) {
  const std::size_t half = rope_.inv_freq.size();
  angles_.resize(step.tokens.size() * half * 2);
  sequence_of_.resize(step.tokens.size());
  for (const SequenceRows& sequence : step.sequences) {
    for (std::size_t i = 0; i < sequence.n_rows; ++i) {
      const std::size_t row = sequence.first_row + i;
      sequence_of_[row] = &sequence;
      for (std::size_t j = 0; j < half; ++j) {
        const double angle = static_cast<double>(sequence.position + i) * rope_.inv_freq[j];
        float* out = angles_.data() + (row * half + j) * 2;
        out[0] = static_cast<float>(std::cos(angle) * rope_.rotation_scale);
        out[1] = static_cast<float>(std::sin(angle) * rope_.rotation_scale);
      }
    }
  }
}

void StepRows::rotate(std::size_t row, std::span<float> x) const {
  const std::size_t half = x.size() / 2;
  const float* angle = angles_.data() + row * half * 2;
  for (std::size_t j = 0; j < half; ++j) {
    float& a = x[interleaved_ ? 2 * j : j];
    float& b = x[interleaved_ ? 2 * j + 1 : j + half];
    const float cos = angle[2 * j];
    const float sin = angle[2 * j + 1];
    const float rotated = a * cos - b * sin;
    b = a * sin + b * cos;
    a = rotated;
  }
}

void RunningSoftmax::begin(std::size_t rows) {
  highest_.assign(rows, -INFINITY);
  sum_.assign(rows, 0.0f);
  keep_.assign(rows, 0.0f);
}

void RunningSoftmax::set_sink(std::size_t row, float score) {
  highest_[row] = score;
  sum_[row] = 1.0f;
}

void RunningSoftmax::add(const kernels::Operations& ops, std::size_t row, std::span<float> seen) {
  const float highest = std::max(highest_[row], *std::max_element(seen.begin(), seen.end()));
  // 0 at first: the sums are too.
  ops.exp_minus({&highest_[row], 1}, highest, &keep_[row]);
  highest_[row] = highest;
  ops.exp_minus(seen, highest, seen.data());
  float sum = 0.0f;
  for (const float p : seen) sum += p;
  sum_[row] = sum_[row] * keep_[row] + sum;
}

}  // namespace conclave::backend
