#include <algorithm>
#include <functional>

#include "base/check.h"
#include "model/model.h"
#include "model/shapes.h"

namespace conclave::model {
namespace {

constexpr std::size_t kUnit = 32;  // columns and vocabulary rows that are never divided

bool is_valid(Range range, std::size_t size, std::size_t unit) {
  return range.begin <= range.end && range.end <= size &&
         (range.begin % unit == 0 || range.begin == size) &&
         (range.end % unit == 0 || range.end == size);
}

Range checked(Range range, std::size_t size, std::size_t unit) {
  CHECK(is_valid(range, size, unit));
  return range;
}

Range times(Range range, std::size_t width) { return {range.begin * width, range.end * width}; }

}  // namespace

Slice Slice::whole(const ModelConfig& config) {
  Slice slice;
  slice.heads = {0, config.n_heads};
  slice.expert_columns = {0, config.moe_intermediate_size};
  slice.shared_columns = {0, config.shared_intermediate_size()};
  slice.dense_columns = {0, config.intermediate_size};
  slice.vocab = {0, config.vocab_size};
  slice.embedding = true;
  return slice;
}

bool Slice::holds(LayerId layer, ExpertId expert) const {
  return contains(experts, expert.value) ||
         std::ranges::binary_search(replicas, LayerExpert{layer, expert});
}

namespace {

Result<void> check_replicas(const ModelConfig& config, const Slice& slice) {
  const auto fits = [&](const LayerExpert& copy) {
    return copy.layer.value < config.n_layers && config.is_moe(copy.layer) &&
           copy.expert.value < config.n_experts && !contains(slice.experts, copy.expert.value);
  };
  const bool ascends =
      std::ranges::adjacent_find(slice.replicas, std::greater_equal<>()) == slice.replicas.end();
  if (ascends && std::ranges::all_of(slice.replicas, fits)) return {};
  return invalid_input("slice: replicas that are not other experts of this model, ascending");
}

}  // namespace

Result<void> check_slice(const ModelConfig& config, const Slice& slice) {
  const auto check = [](std::string_view name, Range range, std::size_t size,
                        std::size_t unit) -> Result<void> {
    if (is_valid(range, size, unit)) return {};
    return invalid_input("slice: " + std::string(name) + " [" + std::to_string(range.begin) + ", " +
                         std::to_string(range.end) + "), expected a part of " +
                         std::to_string(size) + " in units of " + std::to_string(unit));
  };
  TRY(check("heads", slice.heads, config.n_heads, 1));
  TRY(check("expert columns", slice.expert_columns, config.moe_intermediate_size, kUnit));
  TRY(check("shared columns", slice.shared_columns, config.shared_intermediate_size(), kUnit));
  TRY(check("dense columns", slice.dense_columns, config.intermediate_size, kUnit));
  TRY(check("vocabulary", slice.vocab, config.vocab_size, kUnit));
  if (slice.experts != kAll) TRY(check("experts", slice.experts, config.n_experts, 1));
  if (slice.layers != kAll) TRY(check("layers", slice.layers, config.n_layers, 1));
  return check_replicas(config, slice);
}

MatrixSlice slice_of(const ModelConfig& config, const Slice& slice, Weight weight) {
  const MatrixShape shape = shape_of(config, weight);
  const Range rows = {0, shape.rows};
  const Range cols = {0, shape.cols};
  const Range heads = checked(slice.heads, config.n_heads, 1);
  const Range expert = checked(slice.expert_columns, config.moe_intermediate_size, kUnit);
  const Range shared = checked(slice.shared_columns, config.shared_intermediate_size(), kUnit);
  const Range dense = checked(slice.dense_columns, config.intermediate_size, kUnit);
  switch (weight) {
    case Weight::kQ:
    case Weight::kQB:
      return {times(heads, config.qk_head_dim()), cols};
    case Weight::kKvB:
      return {times(heads, config.qk_nope_head_dim + config.v_head_dim), cols};
    case Weight::kO:
      return {rows, times(heads, config.v_head_dim)};
    case Weight::kGate:
    case Weight::kUp:
      return {dense, cols};
    case Weight::kDown:
      return {rows, dense};
    case Weight::kSharedGate:
    case Weight::kSharedUp:
      return {shared, cols};
    case Weight::kSharedDown:
      return {rows, shared};
    case Weight::kExpertGate:
    case Weight::kExpertUp:
      return {expert, cols};
    case Weight::kExpertDown:
      return {rows, expert};
    case Weight::kHead:
      return {checked(slice.vocab, config.vocab_size, kUnit), cols};
    case Weight::kEmbedding:
      return {{0, slice.embedding ? shape.rows : 0}, cols};
    case Weight::kQA:
    case Weight::kKvA:
    case Weight::kK:
    case Weight::kV:
    case Weight::kRouter:
      break;
  }
  return {rows, cols};  // replicated: every rank routes, and caches all keys and values
}

}  // namespace conclave::model
