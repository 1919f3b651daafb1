// The weights of one slice as the CPU keeps them: where each packed matrix lies in the arena.
// Private to backend/cpu.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/model.h"

namespace conclave::backend {

// SwiGLU: down(silu(gate(x)) * up(x)).
struct FfnWeights {
  kernels::PackedMatrix gate, up, down;
};

struct LayerWeights {
  std::vector<float> input_norm, post_attention_norm, q_a_norm, kv_a_norm;
  kernels::PackedMatrix q;    // q_proj, or q_b_proj after q_a
  kernels::PackedMatrix q_a;  // empty without q_lora
  kernels::PackedMatrix kv_a;
  std::vector<kernels::PackedMatrix> key_up;    // per local head: W_uk transposed, [kv_lora, nope]
  std::vector<kernels::PackedMatrix> value_up;  // per local head: W_uv, [v, kv_lora]
  kernels::PackedMatrix o;
  FfnWeights dense;              // dense layers only
  kernels::PackedMatrix router;  // MoE layers only, from here on
  std::vector<float> router_bias;
  FfnWeights shared;
  std::vector<FfnWeights> experts;
};

struct CpuWeights {
  kernels::SourceMatrix embedding;  // row-major in the arena; float formats only
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;
  kernels::PackedMatrix head;
};

// Size of the arena for this slice.
std::size_t planned_bytes(const model::ModelSource& source, const model::Slice& slice,
                          model::WeightsMode mode);

// Fills the arena unless it already holds exactly this, and returns views into it.
Result<CpuWeights> load_weights(const model::ModelSource& source, const model::Slice& slice,
                                model::WeightsMode mode, WeightArena& arena, ThreadPool& pool,
                                const LoadProgress& progress);

}  // namespace conclave::backend
