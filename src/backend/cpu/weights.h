// The weights as the CPU keeps them: where each packed matrix lies in its arena. Private to
// backend/cpu.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "kernels/kernels.h"
#include "model/model.h"

namespace conclave::backend {

// SwiGLU: down(silu(gate(x)) * up(x)).
struct FfnWeights {
  kernels::PackedMatrix gate, up, down;
  std::vector<float> gate_bias, up_bias;  // of its rows; empty without
  std::vector<float> down_bias;           // [hidden]; in one slice only, so that it counts once
};

// What every slice needs: held and computed once.
struct CommonLayer {
  std::vector<float> input_norm, post_attention_norm;
  // Latent attention
  std::vector<float> q_a_norm, kv_a_norm;
  kernels::PackedMatrix q_a;  // empty without q_lora
  kernels::PackedMatrix kv_a;
  // Grouped attention
  std::vector<float> q_norm, k_norm;          // [head]; empty without qk_norm
  std::vector<float> q_bias, k_bias, v_bias;  // of all heads; empty without attention_bias
  std::vector<float> sinks;                   // [heads]; empty without
  kernels::PackedMatrix k, v;

  kernels::PackedMatrix router;          // MoE layers only
  std::vector<float> router_bias;        // for the choice alone
  std::vector<float> router_logit_bias;  // of the router's product; empty without
};

// One of the two, in the arena, or none.
struct Embedding {
  kernels::SourceMatrix rows;    // plain numbers
  kernels::PackedMatrix panels;  // integers
  bool is_here() const { return rows.rows + panels.rows > 0; }
  void read(std::size_t token, std::span<float> out) const;
};

struct CommonWeights {
  Embedding embedding;
  std::vector<CommonLayer> layers;
  std::vector<float> final_norm;
};

struct SliceLayer {
  kernels::PackedMatrix q;  // the slice's heads of q_proj, or of q_b_proj after q_a
  // Latent attention, per head: W_uk transposed, [kv_lora, nope], and W_uv, [v, kv_lora]
  std::vector<kernels::PackedMatrix> key_up, value_up;
  kernels::PackedMatrix o;
  std::vector<float> o_bias;  // [hidden]; in the slice with the first head only
  FfnWeights dense;           // dense layers only
  FfnWeights shared;          // MoE layers only, from here on
  std::vector<FfnWeights> experts;
};

struct SliceWeights {
  std::size_t member = kAnyMember;  // of the ExpertDivision, where there is one
  kernels::Range heads;
  std::vector<SliceLayer> layers;
  kernels::PackedMatrix head;
};

// One matrix of an arena.
struct Placed {
  PackedPart part;
  std::size_t offset = 0;
};

// A matrix as parts of whole panels, of at most `bytes_max` each (but one panel at least), that
// follow each other in memory; none when it is empty.
void divide(const Placed& whole, std::size_t bytes_max, std::vector<Placed>& parts);

// Gives matrices their places in an arena, in an order that depends on the configuration alone:
// used to size the arena, to fill it and to find things in it again.
class Layout {
 public:
  // An empty `arena` only counts: views are empty then. `kind` tells arenas apart.
  Layout(const model::ModelSource& source, model::WeightsMode mode, std::string_view kind,
         std::span<std::byte> arena);

  const model::ModelSource& source() const { return source_; }
  const model::ModelConfig& config() const { return source_.config(); }

  kernels::PackedMatrix place(LayerId layer, model::Weight weight, ExpertId expert,
                              const model::MatrixSlice& part, bool transposed = false);
  Embedding place_embedding();

  std::size_t bytes() const { return end_; }
  std::span<const Placed> placed() const { return placed_; }
  // Of these matrices at these places, with the values of this checkpoint. Never 0.
  std::uint64_t key() const;

 private:
  std::span<const std::byte> add(const PackedPart& part);

  const model::ModelSource& source_;
  model::WeightsMode mode_;
  std::span<std::byte> arena_;
  std::vector<Placed> placed_;
  std::size_t end_ = 0;
  std::uint64_t key_ = 0;
};

// Layouts of the two kinds of arena, and the views into one.
Layout common_layout(const model::ModelSource& source, model::WeightsMode mode,
                     std::span<std::byte> arena);
Layout slice_layout(const model::ModelSource& source, model::WeightsMode mode,
                    std::span<std::byte> arena);
CommonWeights place_common(Layout& layout, bool embedding);  // without the norms
SliceWeights place_slice(Layout& layout, const model::Slice& slice);

// Views into filled arenas. Errors: not filled with exactly this.
Result<CommonWeights> attach_common(const model::ModelSource& source, bool embedding,
                                    model::WeightsMode mode, const WeightArena& arena);
Result<SliceWeights> attach_slice(const model::ModelSource& source, const model::Slice& slice,
                                  model::WeightsMode mode, const WeightArena& arena);

}  // namespace conclave::backend
