#include "apps/synth_fill.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "base/number_formats.h"
#include "base/rng.h"
#include "kernels/kernels.h"

namespace conclave::apps {
namespace {

constexpr std::size_t kIndexMask = SynthTables::kSize - 1;
constexpr float kNibbleDeviation = 4.6f;  // of (u - 8) for u uniform in 0..15

// Solves Phi(x) = p by bisection: exact to the last bits and needed 4,096 times in all.
double inverse_normal(double p) {
  double low = -10.0;
  double high = 10.0;
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (low + high);
    const double below = 0.5 * std::erfc(-middle / std::sqrt(2.0));
    (below < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

// The e4m3 code nearest to `value`; never a NaN code.
std::uint8_t nearest_e4m3(float value) {
  std::uint8_t best = 0;
  float distance = std::fabs(value);
  for (int code = 0; code < 256; ++code) {
    const float candidate = e4m3_to_float(static_cast<std::uint8_t>(code));
    if (std::isnan(candidate) || std::fabs(candidate - value) >= distance) continue;
    distance = std::fabs(candidate - value);
    best = static_cast<std::uint8_t>(code);
  }
  return best;
}

// 0.75 to 1.25, so that scales differ and a scale taken from a wrong place shows.
float spread(float unit) { return 0.75f + 0.5f * unit; }

// FNV-1a: the same on every machine, unlike std::hash.
std::uint64_t name_hash(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// out = make(first), make(first + 1), ...; the last value may be cut.
template <class Make>
void fill_values(std::span<std::byte> out, std::uint64_t first, const Make& make) {
  using Value = decltype(make(first));
  const std::size_t whole = out.size() / sizeof(Value);
  for (std::size_t i = 0; i < whole; ++i) {
    const Value value = make(first + i);
    std::memcpy(out.data() + i * sizeof value, &value, sizeof value);
  }
  const std::size_t rest = out.size() - whole * sizeof(Value);
  if (rest == 0) return;
  const Value value = make(first + whole);
  std::memcpy(out.data() + whole * sizeof value, &value, rest);
}

}  // namespace

SynthTables::SynthTables() {
  normal_.reserve(kSize);
  fp8_.reserve(kSize);
  for (std::size_t i = 0; i < kSize; ++i) {
    const double p = (static_cast<double>(i) + 0.5) / static_cast<double>(kSize);
    normal_.push_back(static_cast<float>(inverse_normal(p)));
    fp8_.push_back(nearest_e4m3(normal_.back() * kFp8Deviation));
  }
}

TensorFiller::TensorFiller(const SynthTables& tables, const SynthTensor& tensor, std::uint64_t seed)
    : tables_(tables),
      fill_(tensor.fill),
      deviation_(tensor.deviation),
      key_(hash_combine(seed, name_hash(tensor.name))),
      groups_per_row_(tensor.shape.back() / kernels::kGroup),
      logical_(tensor.logical) {
  if (fill_ == SynthFill::kNormal || fill_ == SynthFill::kInt4Scale) prepare_bf16_table();
  if (fill_ == SynthFill::kNormalInt8) prepare_int8_grid();
}

void TensorFiller::prepare_bf16_table() {
  bf16_.reserve(SynthTables::kSize);
  for (std::size_t i = 0; i < SynthTables::kSize; ++i) {
    const float unit = static_cast<float>(i) / static_cast<float>(SynthTables::kSize);
    const float value = fill_ == SynthFill::kNormal ? tables_.normal()[i] * deviation_
                                                    : spread(unit) * deviation_ / kNibbleDeviation;
    bf16_.push_back(float_to_bf16(value));
  }
}

// Values q * step with q in -127..127 and step a power of two are BF16 numbers, and int8 with
// groups of 32 keeps them exactly as long as each group's largest |q| is 127: one per group is. It
// lies on a diagonal of each 32 x 32 tile, so that columns have it too: kv_b is kept transposed.
void TensorFiller::prepare_int8_grid() {
  constexpr double kGroupSize = static_cast<double>(kernels::kGroup);
  const double step = std::exp2(std::floor(std::log2(deviation_ / 28.0)));
  const double total = deviation_ / step;  // in steps, 28 to 56
  const double rest = std::sqrt((kGroupSize * total * total - 127.0 * 127.0) / (kGroupSize - 1));
  bf16_.reserve(SynthTables::kSize);
  for (const float unit : tables_.normal()) {
    const double q = std::clamp(std::nearbyint(unit * rest), -127.0, 127.0);
    bf16_.push_back(float_to_bf16(static_cast<float>(q * step)));
  }
  grid_largest_ = float_to_bf16(static_cast<float>(127.0 * step));
}

void TensorFiller::fill(std::uint64_t offset, std::span<std::byte> out) const {
  CHECK(offset % kFillAlignment == 0);
  switch (fill_) {
    case SynthFill::kOnes:
      return fill_values(out, 0, [](std::uint64_t) { return float_to_bf16(1.0f); });
    case SynthFill::kNormal:
    case SynthFill::kInt4Scale:
      return fill_bf16(offset, out);
    case SynthFill::kNormalInt8:
      return fill_int8_grid(offset, out);
    case SynthFill::kFp8:
      return fill_fp8(offset, out);
    case SynthFill::kInt4:
      return fill_random(offset, out);
    case SynthFill::kFp8Scale:
    case SynthFill::kBias:
      return fill_f32(offset, out);
    case SynthFill::kShape:
      CHECK(offset == 0);
      return fill_values(out, 0, [this](std::uint64_t) { return logical_; });
  }
}

void TensorFiller::fill_random(std::uint64_t offset, std::span<std::byte> out) const {
  fill_values(out, offset / 8, [this](std::uint64_t word) { return mix64(key_ + word); });
}

void TensorFiller::fill_bf16(std::uint64_t offset, std::span<std::byte> out) const {
  fill_values(out, offset / 8, [this](std::uint64_t word) {
    const std::uint64_t bits = mix64(key_ + word);
    return std::array<std::uint16_t, 4>{bf16_[bits & kIndexMask], bf16_[(bits >> 16) & kIndexMask],
                                        bf16_[(bits >> 32) & kIndexMask],
                                        bf16_[(bits >> 48) & kIndexMask]};
  });
}

void TensorFiller::fill_int8_grid(std::uint64_t offset, std::span<std::byte> out) const {
  constexpr std::size_t kGroupBytes = kernels::kGroup * sizeof(std::uint16_t);
  fill_bf16(offset, out);
  for (std::size_t i = 0; i < out.size(); i += kGroupBytes) {
    const std::uint64_t group = (offset + i) / kGroupBytes;
    const std::uint64_t row = group / groups_per_row_;
    const std::uint64_t tile = row / kernels::kGroup * groups_per_row_ + group % groups_per_row_;
    const std::uint64_t column = (row + mix64(~key_ + tile)) % kernels::kGroup;
    const std::uint16_t sign = (mix64(key_ ^ mix64(group)) & 1) != 0 ? 0x8000u : 0u;
    const auto largest = static_cast<std::uint16_t>(grid_largest_ | sign);
    std::memcpy(out.data() + i + column * sizeof largest, &largest, sizeof largest);
  }
}

void TensorFiller::fill_fp8(std::uint64_t offset, std::span<std::byte> out) const {
  const std::span<const std::uint8_t> codes = tables_.fp8();
  fill_values(out, offset / 4, [this, codes](std::uint64_t word) {
    const std::uint64_t bits = mix64(key_ + word);
    return std::array<std::uint8_t, 4>{codes[bits & kIndexMask], codes[(bits >> 16) & kIndexMask],
                                       codes[(bits >> 32) & kIndexMask],
                                       codes[(bits >> 48) & kIndexMask]};
  });
}

float TensorFiller::f32_at(std::uint64_t index) const {
  const std::uint64_t bits = mix64(key_ + index);
  if (fill_ == SynthFill::kBias) return tables_.normal()[bits & kIndexMask] * deviation_;
  return spread(static_cast<float>(unit_interval(bits))) * deviation_ / SynthTables::kFp8Deviation;
}

void TensorFiller::fill_f32(std::uint64_t offset, std::span<std::byte> out) const {
  fill_values(out, offset / 4, [this](std::uint64_t index) { return f32_at(index); });
}

}  // namespace conclave::apps
