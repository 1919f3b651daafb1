// One forward pass through the whole model, by one rank or by several together.
//
// Rank 0 plans: run_step() broadcasts the step. The other ranks call follow_step() and run the same
// loop over the layers on their slices, meeting in the exchanges of a collective::Group.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/ids.h"
#include "base/result.h"
#include "collective/collective.h"
#include "engine/trace.h"

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

// How the ranks of an epoch divide the model. The active slices of a rank's backend are, in order,
// the virtual ranks that it computes, Group::own().
struct Division {
  // Strategy `slice-ra`: active slice `attention_slice` of every rank is the whole attention and no
  // virtual rank. Each rank adds it to its own hidden rows; only feed-forward is exchanged.
  bool attention_replicated = false;
  std::size_t attention_slice = 0;
  std::vector<kernels::Range> vocab_of_virtual_rank = {};  // in order, covering the vocabulary
  // Strategy `pipeline`: the layers of each virtual rank, in order, covering all. Empty: every
  // virtual rank has a share of every layer.
  std::vector<kernels::Range> layers_of_virtual_rank = {};
};

// kInvalidInput: the division does not fit the group's virtual ranks or the backend's active
// slices. Both may come from another machine.
Result<void> check_division(const Division& division, const collective::Group& group,
                            const backend::Backend& backend);

// This rank among the others, for one epoch. As it is by default, the rank is alone: its backend
// has one active slice, the whole model, and nothing is sent.
struct Ranks {
  collective::Group* group = nullptr;
  Division division = {};      // check_division() must hold
  StepTrace* trace = nullptr;  // if not null, told of each operation
  std::uint32_t n_steps = 0;   // begun in this epoch

  struct Room {  // kept from step to step
    std::vector<std::byte> description;
    std::vector<float> logits;
    std::vector<ExpertId> experts;
    std::vector<float> weights;
  };
  Room room = {};
};

// Rank 0 runs `step` through all layers: writes the KV of its rows and returns the logits
// [head_rows, vocab] of the wanted rows, valid until the next step. The error is the group's: the
// epoch is over, and the step may be run again in another, as KV writes can be repeated.
Result<std::span<const float>> run_step(backend::Backend& backend, Ranks& ranks,
                                        const backend::Step& step, const StepHooks& hooks = {});

// Another rank waits for rank 0's next step and runs it. Errors: the group's; kCorrupt when the
// step does not fit this rank's limits, after which the epoch cannot go on either.
Result<void> follow_step(backend::Backend& backend, Ranks& ranks, const StepHooks& hooks = {});

}  // namespace conclave::engine
