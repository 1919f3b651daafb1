// The device: runs the coarse operations of a step on one slice of a model.
//
// One operation is what a GPU can do without coming back to the host: embed, attention block,
// route, expert block, head. The exchange of partial sums between ranks sits between two calls:
//
//   backend.embed(step);           // or begin(step, residual) with the rows that another rank sent
//   for each layer:
//     backend.attention(layer);          exchange(backend.partial(i), backend.hidden());
//     backend.route(layer);
//     backend.feed_forward(layer);       exchange(backend.partial(i), backend.hidden());
//   backend.head();                      backend.logits(i)
//
// A backend holds one or more slices of the model (docs/design.md 3: virtual ranks), each with its
// own partial sums; what every slice needs (norms, small projections, router, KV cache) is held
// and computed once. `activate` says which slices take part: a backup slice waits in memory.
//
// docs/decisions/0002-backend.md says how CUDA and MLX implement it.
//
// Threads: one thread calls a Backend; the backend uses its own threads or device inside.
// Shapes: R rows in the step, H hidden size, K experts per token, V vocabulary rows of the slice.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/expert_division.h"
#include "backend/packed_part.h"
#include "backend/shared_memory.h"
#include "base/ids.h"
#include "base/result.h"
#include "model/model.h"

namespace conclave::backend {

inline constexpr std::size_t kPageTokens = 64;  // positions in one KV page

using PageIndex = std::uint32_t;

// Consecutive rows of a step that belong to one sequence, at consecutive positions.
struct SequenceRows {
  std::size_t first_row = 0;
  std::size_t n_rows = 0;
  std::size_t position = 0;          // of the first row
  std::span<const PageIndex> pages;  // covers positions [0, position + n_rows)
  // The rows are an answer's, replayed together after a restart (or, later, verified together):
  // each gets the bits that it would get alone.
  bool decode = false;
};

// One forward pass over rows of many sequences. At most one SequenceRows per sequence.
// A sequence's form of attention depends on its own n_rows alone (docs/design.md 4), so results do
// not depend on which other sequences share the step.
struct Step {
  std::span<const TokenId> tokens;           // [R]
  std::span<const SequenceRows> sequences;   // in row order, covering all rows
  std::span<const std::uint32_t> head_rows;  // rows whose logits are wanted, ascending
};

// The router's choice for the rows of the step, experts in ascending id order within a row.
struct Routing {
  std::span<const ExpertId> experts;  // [R, K]
  std::span<const float> weights;     // [R, K], scaled: ready to multiply the expert's output
};

struct Limits {
  std::size_t rows_max = 512;  // rows in one step
  std::size_t pages = 0;       // KV pages in the pool
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const model::ModelConfig& config() const = 0;
  virtual const Limits& limits() const = 0;
  virtual std::string describe() const = 0;  // "cpu avx512, 2 threads"

  // Starts a step: hidden = embedding of the tokens. The step's spans must live until head().
  // Only where the embedding is held.
  virtual void embed(const Step& step) = 0;
  // Starts a step from given rows: hidden = residual [R, H], which is copied. The ranks without the
  // embedding begin with the hidden() that rank 0 has after embed().
  virtual void begin(const Step& step, std::span<const float> residual) = 0;
  // The hidden rows [R, H], host memory; valid until the next operation. What is written there is
  // the hidden state that the next operation reads: how an exchange hands over its sum.
  virtual std::span<float> hidden() = 0;
  // For each active slice, partial = its share of Attn(RMSNorm(hidden)); writes the rows' KV.
  virtual void attention(LayerId layer) = 0;
  // Chooses experts for a MoE layer from RMSNorm(hidden). `forced`: [R, K] ids to use instead of
  // the router's choice, weights recomputed; empty: free choice.
  virtual Routing route(LayerId layer, std::span<const ExpertId> forced) = 0;
  // Takes over another rank's choice [R, K] whole, weights included, for the next feed_forward.
  virtual void set_routing(LayerId layer, const Routing& routing) = 0;
  // For each active slice, partial = its share of FFN(RMSNorm(hidden)), dense or MoE with the last
  // routing.
  virtual void feed_forward(LayerId layer) = 0;
  // The partial sums [R, H] of the i-th active slice, host memory; valid until the next operation.
  virtual std::span<const float> partial(std::size_t i) = 0;
  // hidden += partial, where one slice is active: what a rank alone does instead of an exchange.
  virtual void add_partial() = 0;
  // Computes the logits of RMSNorm(hidden) for the wanted rows, each active slice its share.
  virtual void head() = 0;
  // [head_rows, rows of the i-th active slice's vocabulary], host memory, valid until the next
  // step.
  virtual std::span<const float> logits(std::size_t i) = 0;

  // The slices held, in the order of their being added.
  virtual std::span<const model::Slice> slices() const = 0;
  // Those that take part from the next step on: indices into slices(), each at most once, in the
  // order in which partial() and logits() count them. At first all, ascending.
  virtual void activate(std::span<const std::size_t> slices) = 0;
  virtual std::span<const std::size_t> active() const = 0;
  // Adds a slice whose weights `arena` holds (load_slice, in this process or another) to the end of
  // slices(), not active. Between steps. `arena` must outlive the backend or the release.
  // Errors: the arena holds something else; a backend that keeps the slices it was made with.
  virtual Result<void> hold(const model::ModelSource& source, const model::Slice& slice,
                            const WeightArena& arena) {
    (void)source, (void)slice, (void)arena;
    return unsupported(describe() + ": cannot take another slice");
  }
  // Forgets slices()[slice], which must not be active; later ones move down by one, in active()
  // too. Between steps.
  virtual void release(std::size_t slice) { (void)slice; }
};

// bytes done, bytes in all; called from the loading thread after each part.
using LoadProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

struct CpuOptions {
  std::string isa = {};     // "" for the fastest
  std::size_t threads = 0;  // 0: one per core
  bool exact = false;       // the exact path of docs/design.md 4
  model::WeightsMode weights = model::WeightsMode::kNative;
  Limits limits = {};
  double busy = 1.0;  // below 1, for measurements: computes so much of the time, as if slower
};

// ---- Memory of a CPU backend --------------------------------------------------------------------
//
// One arena for what all slices need (norms come from the source; small projections, router, and
// the embedding where asked for), one for each slice, and one memory for the KV cache. A slice's
// own `embedding` says nothing here.
//
// Each is sized, created, loaded, and then attached to by make_cpu_backend; in between, the process
// may change. Loading one arena while a backend computes on others is legal, with another
// ThreadPool. `options.weights` alone decides what is in the arenas.

std::size_t cpu_common_bytes(const model::ModelSource& source, bool embedding,
                             const CpuOptions& options);
std::size_t cpu_slice_bytes(const model::ModelSource& source, const model::Slice& slice,
                            const CpuOptions& options);
// All layers, `limits.pages` pages.
std::size_t cpu_kv_bytes(const model::ModelConfig& config, const Limits& limits, bool exact);
std::size_t cpu_page_bytes(const model::ModelConfig& config, bool exact);  // of one page
// The filled_key() of a KV memory whose contents make_cpu_backend will keep. Any other is cleared.
std::uint64_t cpu_kv_key(const model::ModelSource& source, const CpuOptions& options);

// What the arenas hold, in load order and without empty matrices, each at most kPartBytesMax where
// one panel is not larger by itself.
std::vector<PackedPart> list_common_parts(const model::ModelSource& source, bool embedding,
                                          const CpuOptions& options);
std::vector<PackedPart> list_slice_parts(const model::ModelSource& source,
                                         const model::Slice& slice, const CpuOptions& options);

// Fill an arena from `from` unless it holds exactly this already. What a loader that died, or met
// an error, left unfinished is continued. `source` gives shapes and formats: a skeleton will do
// unless `from` reads it. Errors: those of `from`; an arena that is too small.
Result<void> load_common(const model::ModelSource& source, bool embedding,
                         const CpuOptions& options, PackedSource& from, WeightArena& arena,
                         const LoadProgress& progress);
Result<void> load_slice(const model::ModelSource& source, const model::Slice& slice,
                        const CpuOptions& options, PackedSource& from, WeightArena& arena,
                        const LoadProgress& progress);

struct HeldSlice {
  model::Slice slice;
  const WeightArena& weights;
};

// Loaded arenas; all must outlive the backend.
struct CpuParts {
  const WeightArena& common;
  bool embedding = true;  // in `common`: needed for Backend::embed
  std::vector<HeldSlice> slices = {};
  SharedMemory& kv;
  // Where slices have replicas: all slices of the model, those of other ranks too.
  std::shared_ptr<const ExpertDivision> division = nullptr;
};

// Errors: an unknown ISA, an arena that does not hold its part, KV memory that is too small.
Result<std::unique_ptr<Backend>> make_cpu_backend(const model::ModelSource& source,
                                                  const CpuParts& parts, const CpuOptions& options);

// The whole model in this process, as one slice.
struct WholeModel {
  WeightArena common;
  WeightArena slice;
  SharedMemory kv;
  std::unique_ptr<Backend> backend;  // last: it points into the others
};
Result<WholeModel> load_whole_cpu_model(const model::ModelSource& source, const CpuOptions& options,
                                        const LoadProgress& progress);

// ---- Speed of this machine ----------------------------------------------------------------------

// Memory read bandwidth in bytes per second: `streams` interleaved sequential reads per thread
// over `size_bytes` in all. The yardstick of `conclave bench`.
double probe_read_bandwidth(std::size_t threads, std::size_t streams, std::size_t size_bytes);

// How fast the CPU backend's own kernels go here, on memory that holds no model: for
// `conclave probe`. Weights are zeros; speed does not depend on them.
class KernelProbe {
 public:
  virtual ~KernelProbe() = default;
  // Bytes of weights per second of products with one row, over matrices of this format that
  // together take `working_set_bytes` (at most the probe's memory): what decode reads with.
  virtual double gemv_bandwidth(kernels::PackedFormat format, std::size_t working_set_bytes) = 0;
  // FLOP per second of products with `rows` rows: what prefill computes with.
  virtual double gemm_flops(kernels::PackedFormat format, std::size_t rows) = 0;
  // Relative standard deviation of stretches of some milliseconds of the former, as between the
  // exchanges of a step. Slower changes, which all stretches of a step share, do not count.
  virtual double unsteadiness(kernels::PackedFormat format) = 0;
};
// Touches `memory_bytes` (at least 64 MiB). Errors: an unknown ISA, memory not to be had.
// `busy` as in CpuOptions.
Result<std::unique_ptr<KernelProbe>> make_cpu_kernel_probe(std::string_view isa,
                                                           std::size_t threads,
                                                           std::size_t memory_bytes,
                                                           double busy = 1.0);

}  // namespace conclave::backend
