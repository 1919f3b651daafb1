#include "engine/step.h"

#include <cstdint>

#include "model/model.h"

namespace conclave::engine {
namespace {

void advance(const StepHooks& hooks) {
  if (hooks.advanced) hooks.advanced();
}

void route(backend::Backend& backend, LayerId layer, std::size_t moe_layer,
           const StepHooks& hooks) {
  std::span<const ExpertId> forced;
  if (hooks.forced) forced = hooks.forced(moe_layer);
  const backend::Routing routing = backend.route(layer, forced);
  if (hooks.chosen) hooks.chosen(moe_layer, routing);
  advance(hooks);
}

}  // namespace

// hidden = Embedding(tokens)
// for each layer:
//   hidden += Attention(RMSNorm(hidden))
//   hidden += FeedForward(RMSNorm(hidden))    dense in the first layers, then K experts of many
// logits = Head(RMSNorm(hidden))
std::span<const float> run_step(backend::Backend& backend, const backend::Step& step,
                                const StepHooks& hooks) {
  const model::ModelConfig& config = backend.config();
  std::size_t moe_layer = 0;

  backend.embed(step);
  advance(hooks);
  for (std::size_t i = 0; i < config.n_layers; ++i) {
    const LayerId layer{static_cast<std::uint16_t>(i)};

    backend.attention(layer);
    backend.add_partial();
    advance(hooks);

    if (config.is_moe(layer)) route(backend, layer, moe_layer++, hooks);
    backend.feed_forward(layer);
    backend.add_partial();
    advance(hooks);
  }
  const std::span<const float> logits = backend.head();
  advance(hooks);
  return logits;
}

}  // namespace conclave::engine
