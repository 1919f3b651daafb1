#include "cluster/layout.h"

namespace conclave::cluster {
namespace {

constexpr std::size_t kRowsMax = 65536;        // in one step
constexpr int kReplicasMax = 1 << 17;          // of one virtual rank, all layers
constexpr std::uint32_t kRangeMax = 1u << 28;  // far above any model's width or vocabulary

Result<kernels::Range> range_of(std::uint32_t begin, std::uint32_t end, std::size_t virtual_rank,
                                const char* what) {
  if (begin > end || end > kRangeMax) {
    return corrupt("layout: virtual rank " + std::to_string(virtual_rank) + " has " + what + " " +
                   std::to_string(begin) + " to " + std::to_string(end));
  }
  return kernels::Range{begin, end};
}

std::uint32_t narrow(std::size_t value) {
  CHECK(value <= kRangeMax);
  return static_cast<std::uint32_t>(value);
}

void fill_slice(const model::Slice& slice, wire::pb::Slice* out) {
  out->set_heads_begin(narrow(slice.heads.begin));
  out->set_heads_end(narrow(slice.heads.end));
  out->set_expert_begin(narrow(slice.expert_columns.begin));
  out->set_expert_end(narrow(slice.expert_columns.end));
  out->set_shared_begin(narrow(slice.shared_columns.begin));
  out->set_shared_end(narrow(slice.shared_columns.end));
  out->set_dense_begin(narrow(slice.dense_columns.begin));
  out->set_dense_end(narrow(slice.dense_columns.end));
  out->set_vocab_begin(narrow(slice.vocab.begin));
  out->set_vocab_end(narrow(slice.vocab.end));
  if (slice.experts != model::kAll) {
    out->set_some_experts(true);
    out->set_experts_begin(narrow(slice.experts.begin));
    out->set_experts_end(narrow(slice.experts.end));
  }
  if (slice.layers != model::kAll) {
    out->set_some_layers(true);
    out->set_layers_begin(narrow(slice.layers.begin));
    out->set_layers_end(narrow(slice.layers.end));
  }
  for (const model::LayerExpert& copy : slice.replicas) {
    out->add_replicas(std::uint32_t{copy.layer.value} << 16 | copy.expert.value);
  }
}

Result<model::Slice> slice_from(const wire::pb::Slice& in, std::size_t v) {
  model::Slice slice;
  slice.heads = TRY(range_of(in.heads_begin(), in.heads_end(), v, "heads"));
  slice.expert_columns = TRY(range_of(in.expert_begin(), in.expert_end(), v, "expert columns"));
  slice.shared_columns = TRY(range_of(in.shared_begin(), in.shared_end(), v, "shared columns"));
  slice.dense_columns = TRY(range_of(in.dense_begin(), in.dense_end(), v, "dense columns"));
  slice.vocab = TRY(range_of(in.vocab_begin(), in.vocab_end(), v, "vocabulary rows"));
  if (in.some_experts()) {
    slice.experts = TRY(range_of(in.experts_begin(), in.experts_end(), v, "experts"));
  }
  if (in.some_layers()) {
    slice.layers = TRY(range_of(in.layers_begin(), in.layers_end(), v, "layers"));
  }
  if (in.replicas_size() > kReplicasMax) {
    return corrupt("layout: virtual rank " + std::to_string(v) + " has " +
                   std::to_string(in.replicas_size()) + " replicas");
  }
  for (const std::uint32_t copy : in.replicas()) {
    slice.replicas.push_back({LayerId{static_cast<std::uint16_t>(copy >> 16)},
                              ExpertId{static_cast<std::uint16_t>(copy & 0xffff)}});
  }
  slice.embedding = false;
  return slice;
}

}  // namespace

wire::pb::Layout to_message(const Layout& layout) {
  wire::pb::Layout out;
  out.set_id(layout.id);
  out.set_strategy(static_cast<std::uint32_t>(layout.strategy));
  out.set_attention_replicated(layout.attention_replicated);
  out.set_model(layout.model);
  for (const VirtualRank& rank : layout.virtual_ranks) {
    wire::pb::VirtualRank* to = out.add_virtual_ranks();
    to->set_group(rank.group);
    fill_slice(rank.slice, to->mutable_slice());
    to->set_weight_bytes(rank.weight_bytes);
  }
  out.set_common_bytes(layout.common_bytes);
  out.set_kv_bytes(layout.kv_bytes);
  out.set_weights(static_cast<std::uint32_t>(layout.weights));
  out.set_exact(layout.exact);
  out.set_rows_max(narrow(layout.rows_max));
  out.set_pages(narrow(layout.pages));
  return out;
}

Result<Layout> from_message(const wire::pb::Layout& message) {
  Layout layout;
  layout.id = message.id();
  if (message.strategy() >= plan::kStrategies) {
    return corrupt("layout: unknown strategy " + std::to_string(message.strategy()));
  }
  layout.strategy = static_cast<plan::Strategy>(message.strategy());
  layout.attention_replicated = message.attention_replicated();
  layout.model = message.model();
  const auto n = static_cast<std::size_t>(message.virtual_ranks_size());
  if (n == 0 || n > kVirtualRanksMax) {
    return corrupt("layout: " + std::to_string(n) + " virtual ranks");
  }
  std::uint32_t group = 0;
  for (std::size_t v = 0; v < n; ++v) {
    const wire::pb::VirtualRank& from = message.virtual_ranks(static_cast<int>(v));
    const bool starts_right = v == 0 ? from.group() == 0 : from.group() - group <= 1;
    if (!starts_right || from.group() > kVirtualRanksMax) {
      return corrupt("layout: virtual rank " + std::to_string(v) + " is of group " +
                     std::to_string(from.group()) + " after group " + std::to_string(group));
    }
    group = from.group();
    layout.virtual_ranks.push_back({.group = static_cast<std::uint16_t>(group),
                                    .slice = TRY(slice_from(from.slice(), v)),
                                    .weight_bytes = from.weight_bytes()});
  }
  layout.common_bytes = message.common_bytes();
  layout.kv_bytes = message.kv_bytes();
  if (message.weights() > static_cast<std::uint32_t>(model::WeightsMode::kInt4)) {
    return corrupt("layout: unknown weights mode " + std::to_string(message.weights()));
  }
  layout.weights = static_cast<model::WeightsMode>(message.weights());
  layout.exact = message.exact();
  layout.rows_max = message.rows_max();
  layout.pages = message.pages();
  if (layout.rows_max == 0 || layout.rows_max > kRowsMax || layout.pages > kRangeMax) {
    return corrupt("layout: " + std::to_string(layout.rows_max) + " rows, " +
                   std::to_string(layout.pages) + " pages");
  }
  return layout;
}

}  // namespace conclave::cluster
