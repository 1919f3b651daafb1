// The device: runs the coarse operations of a step on one slice of a model.
//
// One operation is what a GPU can do without coming back to the host: embed, attention block,
// route, expert block, head. The exchange of partial sums between ranks sits between two calls:
//
//   backend.embed(step);           // or begin(step, residual) with the rows that another rank sent
//   for each layer:
//     backend.attention(layer);          exchange(backend.partial());  backend.add_partial();
//     backend.route(layer);
//     backend.feed_forward(layer);       exchange(backend.partial());  backend.add_partial();
//   backend.head();
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
  // Only for a slice that holds the embedding.
  virtual void embed(const Step& step) = 0;
  // Starts a step from given rows, on any slice: hidden = residual [R, H], which is copied. The
  // ranks without the embedding begin with the residual() that rank 0 has after embed().
  virtual void begin(const Step& step, std::span<const float> residual) = 0;
  // The hidden rows [R, H] themselves, host memory; valid until the next operation.
  virtual std::span<const float> residual() = 0;
  // partial = this slice's share of Attn(RMSNorm(hidden)); writes the rows' KV.
  virtual void attention(LayerId layer) = 0;
  // Chooses experts for a MoE layer from RMSNorm(hidden); a no-op in a dense layer. `forced`:
  // [R, K] ids to use instead of the router's choice, weights recomputed; empty: free choice.
  virtual Routing route(LayerId layer, std::span<const ExpertId> forced) = 0;
  // partial = this slice's share of FFN(RMSNorm(hidden)), dense or MoE with the last routing.
  virtual void feed_forward(LayerId layer) = 0;
  // The partial sum [R, H], host memory; valid until the next operation.
  virtual std::span<float> partial() = 0;
  virtual void add_partial() = 0;  // hidden += partial
  // Logits [head_rows, V] of RMSNorm(hidden), host memory, valid until the next step.
  virtual std::span<const float> head() = 0;
};

// Memory that outlives the process that fills it: weights live there, so that a new worker attaches
// to what a dead one had loaded. `shared` false: plain anonymous memory for one process.
class WeightArena {
 public:
  // Bytes are reserved now and touched when written. `fd` >= 0 attaches to an arena made by
  // `create_shared` in the parent process.
  static Result<WeightArena> create_private(std::size_t size_bytes);
  static Result<WeightArena> create_shared(std::size_t size_bytes);
  static Result<WeightArena> attach(int fd);

  WeightArena(WeightArena&& other) noexcept;
  WeightArena& operator=(WeightArena&& other) noexcept;
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;
  ~WeightArena();

  int fd() const { return fd_; }  // -1 when private
  std::span<std::byte> bytes() const { return {data_, size_}; }
  // The key of the complete contents, 0 while they are not: a loader that died half-way left 0.
  std::uint64_t filled_key() const;
  void set_filled_key(std::uint64_t key);

 private:
  WeightArena(int fd, std::byte* base, std::size_t mapped, std::byte* data, std::size_t size)
      : fd_(fd), base_(base), mapped_(mapped), data_(data), size_(size) {}

  int fd_ = -1;
  std::byte* base_ = nullptr;  // a header page, then the data
  std::size_t mapped_ = 0;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// bytes done, bytes in all; called from the loading thread after each matrix.
using LoadProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

struct CpuOptions {
  std::string isa = {};     // "" for the fastest
  std::size_t threads = 0;  // 0: one per core
  bool exact = false;       // the exact path of docs/design.md 4
  model::WeightsMode weights = model::WeightsMode::kNative;
  Limits limits = {};
};

// Size of the arena that `make_cpu_backend` needs for this model, slice and options.
std::size_t cpu_weight_bytes(const model::ModelSource& source, const model::Slice& slice,
                             const CpuOptions& options);

// Repacks the weights into `arena` (unless it already holds them) and drops the source pages.
// `arena` must outlive the backend. Errors: corrupt weights, unknown ISA, KV memory not to be had.
Result<std::unique_ptr<Backend>> make_cpu_backend(const model::ModelSource& source,
                                                  const model::Slice& slice,
                                                  const CpuOptions& options, WeightArena& arena,
                                                  const LoadProgress& progress);

// Bytes of KV memory of one page, all layers.
std::size_t cpu_page_bytes(const model::ModelConfig& config, bool exact);

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
};
// Touches `memory_bytes` (at least 64 MiB). Errors: an unknown ISA, memory not to be had.
Result<std::unique_ptr<KernelProbe>> make_cpu_kernel_probe(std::string_view isa,
                                                           std::size_t threads,
                                                           std::size_t memory_bytes);

}  // namespace conclave::backend
