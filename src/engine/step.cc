#include "engine/step.h"

#include <algorithm>
#include <optional>
#include <string>

#include "base/check.h"
#include "engine/step_message.h"
#include "model/model.h"

namespace conclave::engine {
namespace {

// One rank's pass over the layers.
struct Pass {
  backend::Backend& backend;
  Ranks& ranks;
  const StepHooks& hooks;
  std::uint32_t step = 0;  // its number in the epoch
  // Strategy `pipeline`: the active slice that has the layer, whole.
  std::optional<std::size_t> stage = {};

  void advance() const {
    if (hooks.advanced) hooks.advanced();
  }
  Duration waited() const {
    return ranks.group == nullptr ? Duration::zero() : ranks.group->stats().waited;
  }
  void begin_trace(std::size_t rows) const {
    if (ranks.trace != nullptr) ranks.trace->begin_step(rows);
  }
  void trace_begun() const {
    if (ranks.trace != nullptr) ranks.trace->begun();
  }
  void end_trace() const {
    if (ranks.trace != nullptr) ranks.trace->end_step();
  }
};

// The active slice of one of this rank's virtual ranks.
std::size_t active_slice(const Division& division, std::size_t own_index) {
  const bool after = division.attention_replicated && own_index >= division.attention_slice;
  return own_index + (after ? 1 : 0);
}

// Kept: the backend may reuse its routing's memory for the experts' pass.
backend::Routing route(const Pass& pass, LayerId layer, std::size_t moe_layer) {
  std::span<const ExpertId> forced;
  if (pass.hooks.forced) forced = pass.hooks.forced(moe_layer);
  backend::Routing routing = pass.backend.route(layer, forced);
  if (pass.hooks.chosen) pass.hooks.chosen(moe_layer, routing);
  if (pass.ranks.trace != nullptr) pass.ranks.trace->routed(layer.value, routing);
  if (pass.ranks.group != nullptr) {
    Ranks::Room& room = pass.ranks.room;
    room.experts.assign(routing.experts.begin(), routing.experts.end());
    room.weights.assign(routing.weights.begin(), routing.weights.end());
    routing = {room.experts, room.weights};
  }
  pass.advance();
  return routing;
}

Result<void> check_routing(const model::ModelConfig& config, std::span<const ExpertId> experts) {
  for (std::size_t i = 0; i < experts.size(); ++i) {
    const bool ascends = i % config.experts_per_token == 0 || experts[i - 1] < experts[i];
    if (ascends && experts[i].value < config.n_experts) continue;
    return corrupt("expert " + std::to_string(experts[i].value) + " at place " +
                   std::to_string(i % config.experts_per_token) + " of a row");
  }
  return {};
}

// hidden += the partial sums of all virtual ranks, on all ranks.
Result<void> exchange(const Pass& pass, LayerId layer, wire::Phase phase,
                      const backend::Routing& routing) {
  backend::Backend& backend = pass.backend;
  const Division& division = pass.ranks.division;
  const std::span<float> hidden = backend.hidden();
  collective::RoutingCheck check{routing.experts, routing.weights, {}};
  check.recompute = [&](std::span<const ExpertId> experts,
                        std::span<const float> weights) -> Result<void> {
    TRY(check_routing(backend.config(), experts));
    backend.set_routing(layer, {experts, weights});
    backend.feed_forward(layer);
    CHECK(backend.hidden().data() == hidden.data());
    return {};
  };
  return pass.ranks.group->exchange(
      {.step = pass.step, .layer = layer.value, .phase = phase},
      [&](std::size_t own_index) { return backend.partial(active_slice(division, own_index)); },
      hidden, routing.experts.empty() ? nullptr : &check);
}

// hidden += the partial sums of one slice, on this rank alone.
void add_own(backend::Backend& backend, std::size_t slice) {
  const std::span<float> hidden = backend.hidden();
  const std::span<const float> partial = backend.partial(slice);
  CHECK(partial.size() == hidden.size());
  for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] += partial[i];
}

Result<void> add_attention(const Pass& pass, LayerId layer) {
  const Division& division = pass.ranks.division;
  if (pass.ranks.group == nullptr) {
    pass.backend.add_partial();
  } else if (pass.stage) {
    add_own(pass.backend, *pass.stage);
  } else if (division.attention_replicated) {
    add_own(pass.backend, division.attention_slice);
  } else {
    TRY(exchange(pass, layer, wire::Phase::kAttention, {}));
  }
  return {};
}

Result<void> add_feed_forward(const Pass& pass, LayerId layer, const backend::Routing& routing) {
  if (pass.ranks.group == nullptr) {
    pass.backend.add_partial();
  } else if (pass.stage) {
    add_own(pass.backend, *pass.stage);
  } else {
    TRY(exchange(pass, layer, wire::Phase::kFeedForward, routing));
  }
  return {};
}

// hidden += Attention(RMSNorm(hidden))
// hidden += FeedForward(RMSNorm(hidden))    dense in the first layers, then K experts of many
Result<void> run_layer(const Pass& pass, LayerId layer, std::size_t& moe_layer) {
  backend::Backend& backend = pass.backend;
  StepTrace* trace = pass.ranks.trace;

  backend.attention(layer);
  if (trace != nullptr) trace->attention(layer.value);
  TRY(add_attention(pass, layer));
  if (trace != nullptr) trace->attention_exchange(layer.value, pass.waited());
  pass.advance();

  backend::Routing routing;
  if (backend.config().is_moe(layer)) routing = route(pass, layer, moe_layer++);
  backend.feed_forward(layer);
  if (trace != nullptr) trace->feed_forward(layer.value);
  TRY(add_feed_forward(pass, layer, routing));
  if (trace != nullptr) trace->feed_forward_exchange(layer.value, pass.waited());
  pass.advance();
  return {};
}

// Strategy `pipeline`: the virtual rank that has the vocabulary, whole.
std::size_t head_stage(const Division& division) {
  const auto& vocab = division.vocab_of_virtual_rank;
  const auto has_rows = [](const kernels::Range& rows) { return rows.size() > 0; };
  return static_cast<std::size_t>(std::ranges::find_if(vocab, has_rows) - vocab.begin());
}

// Strategy `pipeline`: each virtual rank has whole layers; the hidden rows go from rank to rank, at
// last, if logits are wanted, to the one that has the head.
Result<void> run_stages(Pass pass, bool wants_logits) {
  collective::Group& group = *pass.ranks.group;
  const auto& stages = pass.ranks.division.layers_of_virtual_rank;
  std::optional<collective::Rank> at;  // who has the rows; at first everybody has those of rank 0
  std::size_t moe_layer = 0;
  for (std::size_t v = 0; v < stages.size(); ++v) {
    if (stages[v].size() == 0) continue;
    const collective::Rank owner = group.virtual_ranks()[v].rank;
    const LayerId first{static_cast<std::uint16_t>(stages[v].begin)};
    if (at && *at != owner) {
      TRY(group.hand_over({.step = pass.step, .layer = first.value}, *at, owner,
                          pass.backend.hidden()));
    }
    at = owner;
    const auto own = std::ranges::find(group.own(), v);
    pass.stage.reset();
    if (owner == group.rank()) {
      CHECK(own != group.own().end());
      pass.stage =
          active_slice(pass.ranks.division, static_cast<std::size_t>(own - group.own().begin()));
    }
    for (std::size_t l = stages[v].begin; l < stages[v].end; ++l) {
      const LayerId layer{static_cast<std::uint16_t>(l)};
      if (pass.stage) {
        TRY(run_layer(pass, layer, moe_layer));
      } else if (pass.backend.config().is_moe(layer)) {
        ++moe_layer;
      }
    }
  }
  const collective::Rank head = group.virtual_ranks()[head_stage(pass.ranks.division)].rank;
  if (!wants_logits || !at || *at == head) return {};
  const auto end = static_cast<std::uint16_t>(pass.backend.config().n_layers);
  return group.hand_over({.step = pass.step, .layer = end}, *at, head, pass.backend.hidden());
}

Result<void> run_layers(const Pass& pass, bool wants_logits) {
  if (!pass.ranks.division.layers_of_virtual_rank.empty()) return run_stages(pass, wants_logits);
  std::size_t moe_layer = 0;
  for (std::size_t i = 0; i < pass.backend.config().n_layers; ++i) {
    TRY(run_layer(pass, LayerId{static_cast<std::uint16_t>(i)}, moe_layer));
  }
  return {};
}

// Collects the shares of the vocabulary; rank 0's room then has the logits [head_rows, vocab].
Result<void> gather_logits(const Pass& pass, std::size_t n_head_rows) {
  const Division& division = pass.ranks.division;
  std::vector<float>& logits = pass.ranks.room.logits;
  const std::size_t vocab_size = pass.backend.config().vocab_size;
  if (pass.ranks.group->rank() == 0) logits.resize(n_head_rows * vocab_size);
  return pass.ranks.group->gather_head(
      pass.step,
      [&](std::size_t own_index) { return pass.backend.logits(active_slice(division, own_index)); },
      [&](std::size_t virtual_rank, std::span<const float> share) -> Result<void> {
        const kernels::Range vocab = division.vocab_of_virtual_rank[virtual_rank];
        if (share.size() != n_head_rows * vocab.size()) {
          return corrupt(std::to_string(share.size()) + " numbers for " +
                         std::to_string(n_head_rows) + " rows of " + std::to_string(vocab.size()));
        }
        for (std::size_t row = 0; row < n_head_rows && vocab.size() > 0; ++row) {
          std::ranges::copy(
              share.subspan(row * vocab.size(), vocab.size()),
              logits.begin() + static_cast<std::ptrdiff_t>(row * vocab_size + vocab.begin));
        }
        return {};
      });
}

// There the logits, none though there may be, also say that a step has been through all stages:
// rank 0 does not run ahead.
bool is_pipeline(const Ranks& ranks) { return !ranks.division.layers_of_virtual_rank.empty(); }

// Whether there is only one virtual rank, rank 0's: its logits need no copy.
bool has_whole_head(const Ranks& ranks) { return ranks.group->virtual_ranks().size() == 1; }

// The stages cover all layers in order, one of them has the whole vocabulary, and this rank's
// slices have the layers of its virtual ranks.
Result<void> check_stages(const Division& division, const collective::Group& group,
                          const backend::Backend& backend) {
  const auto& stages = division.layers_of_virtual_rank;
  std::size_t end = 0;
  for (const kernels::Range& stage : stages) {
    if (stage.begin != end || stage.end < end) {
      return invalid_input("layers " + std::to_string(stage.begin) + " to " +
                           std::to_string(stage.end) + " after layer " + std::to_string(end));
    }
    end = stage.end;
  }
  if (stages.size() != group.virtual_ranks().size() || end != backend.config().n_layers ||
      division.attention_replicated) {
    return invalid_input(std::to_string(stages.size()) + " stages end at layer " +
                         std::to_string(end) + " of " + std::to_string(backend.config().n_layers));
  }
  const kernels::Range head = division.vocab_of_virtual_rank[head_stage(division)];
  if (head.size() != backend.config().vocab_size) {
    return invalid_input("no stage has the whole vocabulary");
  }
  for (std::size_t i = 0; i < group.own().size() && i < backend.active().size(); ++i) {
    const model::Slice& slice = backend.slices()[backend.active()[i]];
    if (slice.layers == stages[group.own()[i]]) continue;
    return invalid_input("virtual rank " + std::to_string(group.own()[i]) +
                         " has other layers than its slice");
  }
  return {};
}

}  // namespace

Result<void> check_division(const Division& division, const collective::Group& group,
                            const backend::Backend& backend) {
  const std::size_t n_virtual_ranks = group.virtual_ranks().size();
  const auto& vocab = division.vocab_of_virtual_rank;
  if (vocab.size() != n_virtual_ranks) {
    return invalid_input("vocabulary shares of " + std::to_string(vocab.size()) +
                         " virtual ranks; the layout has " + std::to_string(n_virtual_ranks));
  }
  std::size_t end = 0;
  for (const kernels::Range& share : vocab) {
    if (share.begin != end || share.end < end) {
      return invalid_input("vocabulary share " + std::to_string(share.begin) + " to " +
                           std::to_string(share.end) + " after one that ends at " +
                           std::to_string(end));
    }
    end = share.end;
  }
  if (end != backend.config().vocab_size) {
    return invalid_input("vocabulary shares end at " + std::to_string(end) + " of " +
                         std::to_string(backend.config().vocab_size));
  }
  if (!division.layers_of_virtual_rank.empty()) TRY(check_stages(division, group, backend));
  const std::size_t n_active = backend.active().size();
  const std::size_t expected = group.own().size() + (division.attention_replicated ? 1 : 0);
  if (n_active != expected ||
      (division.attention_replicated && division.attention_slice >= n_active)) {
    return invalid_input(std::to_string(n_active) + " active slices; this rank's division has " +
                         std::to_string(expected));
  }
  for (std::size_t i = 0; i < group.own().size(); ++i) {
    const std::size_t slice = backend.active()[active_slice(division, i)];
    if (backend.slices()[slice].vocab == vocab[group.own()[i]]) continue;
    return invalid_input("virtual rank " + std::to_string(group.own()[i]) +
                         " has another share of the vocabulary than slice " +
                         std::to_string(slice));
  }
  return {};
}

// hidden = Embedding(tokens)
// the layers
// logits = Head(RMSNorm(hidden))
Result<std::span<const float>> run_step(backend::Backend& backend, Ranks& ranks,
                                        const backend::Step& step, const StepHooks& hooks) {
  const Pass pass{backend, ranks, hooks, ranks.n_steps++};

  pass.begin_trace(step.tokens.size());
  backend.embed(step);
  if (ranks.group != nullptr) {
    encode_step(step, ranks.room.description);
    TRY(ranks.group->send_step(pass.step, ranks.room.description, backend.hidden()));
  }
  pass.trace_begun();
  pass.advance();
  TRY(run_layers(pass, !step.head_rows.empty()));
  backend.head();
  pass.advance();
  const bool whole = ranks.group == nullptr || has_whole_head(ranks);
  const bool wanted = !step.head_rows.empty() || is_pipeline(ranks);
  if (!whole && wanted) TRY(gather_logits(pass, step.head_rows.size()));
  pass.end_trace();
  if (ranks.group == nullptr) return backend.logits(0);
  if (whole) return backend.logits(active_slice(ranks.division, 0));
  return std::span<const float>(ranks.room.logits)
      .first(step.head_rows.size() * backend.config().vocab_size);
}

Result<void> follow_step(backend::Backend& backend, Ranks& ranks, const StepHooks& hooks) {
  CHECK(ranks.group != nullptr);
  const model::ModelConfig& config = backend.config();
  const auto message = TRY(ranks.group->receive_step());
  const DecodedStep decoded =
      TRY(decode_step(message.description, {.rows_max = backend.limits().rows_max,
                                            .pages = backend.limits().pages,
                                            .positions = config.max_positions,
                                            .vocab_size = config.vocab_size}));
  if (message.residual.size() != decoded.tokens.size() * config.hidden_size) {
    return corrupt("a step of " + std::to_string(decoded.tokens.size()) + " rows with " +
                   std::to_string(message.residual.size()) + " numbers of embeddings");
  }
  ++ranks.n_steps;
  const Pass pass{backend, ranks, hooks, message.step};

  pass.begin_trace(decoded.tokens.size());
  backend.begin(decoded.step(), message.residual);
  pass.trace_begun();
  pass.advance();
  TRY(run_layers(pass, !decoded.head_rows.empty()));
  backend.head();
  pass.advance();
  if (!decoded.head_rows.empty() || is_pipeline(ranks)) {
    TRY(gather_logits(pass, decoded.head_rows.size()));
  }
  pass.end_trace();
  return {};
}

}  // namespace conclave::engine
