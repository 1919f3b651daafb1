// One forward pass through the whole model.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "backend/backend.h"
#include "base/ids.h"

namespace conclave::engine {

// Lets callers watch a step, and `evaluate` steer the routers. `moe_layer` counts the MoE layers
// from 0. An empty function is not called.
struct StepHooks {
  // The experts to use, [R, K] ascending within a row; empty: the router's own choice.
  std::function<std::span<const ExpertId>(std::size_t moe_layer)> forced;
  std::function<void(std::size_t moe_layer, const backend::Routing& routing)> chosen;
  // After each operation of the backend: several times a layer, so whoever waits for the step can
  // tell a slow one from one that hangs.
  std::function<void()> advanced;
};

// Runs `step` through all layers: writes the KV of its rows and returns the logits
// [head_rows, vocab] of the wanted rows, valid until the next step.
std::span<const float> run_step(backend::Backend& backend, const backend::Step& step,
                                const StepHooks& hooks = {});

}  // namespace conclave::engine
