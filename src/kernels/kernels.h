// Math over spans. Knows no model.
//
// Weights are repacked once, at load, into *panels* of 16 rows in the order the kernels read them:
// one panel is one sequential read stream, and a kernel walks several panels at a time on cores
// that do not saturate memory with one stream.
//
// Two specifications (docs/design.md 4), written once over 16 lanes in lanes.h and gemm_tiles.h;
// scalar/ gives the lanes in plain C++, kernels_test.cc repeats the arithmetic in plain loops:
//   exact: weights dequantised to float32 without rounding, float32 activations,
//          acc = fma(w, x, acc) over the inputs in ascending order.
//   fast:  int8 and int4 weights meet activations rounded to int8 in groups of 32 inputs:
//          acc = fma(float(int32 dot of the group), s_w * s_a, acc), groups in ascending order;
//          mxfp4 weights likewise, as twice their value, which is whole, times half their scale.
//          int4_affine and int8_affine: w = fma(scale, u, offset), u a whole number from 0 on;
//          acc = fma(float(int32 dot of u), s_w * s_a, acc), then
//          acc = fma(float(sum of the activations), o_w * s_a, acc).
//          int8_halves: w = scale * (u - 32), a scale for each 16 inputs; like int8, half by half.
//          bf16, f16 and f32 weights: acc = fma(w, x, acc) in ascending order.
//          fp8: per block of 128 inputs sum = fma(w, x, sum) from 0; acc = fma(sum, scale, acc).
// Every instruction set gives the bits of the scalar code: lanes are rows, so that no sum is ever
// split, and a row's result depends neither on the number of rows, tokens nor threads.
//
// Threads: all functions are pure; callers divide panels and tokens over threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace conclave::kernels {

inline constexpr std::size_t kPanelRows = 16;
inline constexpr std::size_t kGroup = 32;  // inputs that share one scale in int8 and int4
inline constexpr std::size_t kFp8BlockSize = 128;

// ---- Weights as files hold them -------------------------------------------------------------

enum class SourceFormat : std::uint8_t {
  kF32,
  kF16,
  kBF16,
  kFp8Block,   // e4m3 bytes; scales F32 [ceil(rows/128), ceil(cols/128)], multiplied
  kInt4Group,  // compressed-tensors pack-quantized; scales BF16 [rows, cols/32]
  kMxfp4,      // E2M1, two a byte, the even input low; scales E8M0 [rows, cols/32], multiplied
  // Blocks of GGUF, scales within: docs/models.md 5.6. Of 32 inputs, ...
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kIq4Nl,
  kGgufMxfp4,
  // ... and of 256.
  kQ4K,
  kQ5K,
  kQ6K,
  kIq4Xs,
  // MLX affine, 2 to 4 and 5 to 8 bits: codes as streams of bits, lowest first; `scales` and
  // `offsets` [rows, cols/group], w = scale * code + offset. docs/models.md 5.3
  kMlx4,
  kMlx8,
  // compressed-tensors pack-quantized of 4 and 8 bits, other than kInt4Group; `scales` as above,
  // `offsets` empty or the zero points, packed down the rows. docs/models.md 5.1
  kPacked4,
  kPacked8,
  // The same with BF16 scales and without zero points, which kInt4 and kInt8 hold as they are.
  kPackedBf16x4,
  kPackedBf16x8,
  // The two halves of kv_b as files that split it have them: `heads`. Read half by half.
  kHeads,
};

enum class ScaleType : std::uint8_t { kBF16, kF16, kF32 };

struct HeadMatrices;

// A matrix [rows, cols], row-major, y = W x: rows are outputs, cols are inputs. Not aligned.
struct SourceMatrix {
  SourceFormat format = SourceFormat::kF32;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::span<const std::byte> weights;
  std::span<const std::byte> scales;  // empty unless the format has scales
  // Rows of the file from one row to the next: 2 where gate and up take turns. `weights` and
  // `scales` begin with the first row and end with the last. Only kMxfp4 has another than 1.
  std::size_t row_step = 1;
  // kMlx*, kPacked* alone:
  std::span<const std::byte> offsets = {};
  std::size_t group = 0;  // inputs that share a scale: a multiple of 32
  unsigned bits = 0;      // of a code
  ScaleType scale_type = ScaleType::kBF16;
  // kHeads alone; `weights` is then empty.
  const HeadMatrices* heads = nullptr;
};

// Row h * (nope + v) + i is, below nope, column i of W_uk's head h, then row i - nope of its W_uv.
struct HeadMatrices {
  std::size_t heads = 0, nope = 0, v = 0;
  SourceMatrix key_up;    // [heads * cols, nope]: W_uk, transposed head by head
  SourceMatrix value_up;  // [heads * v, cols]
};

// Where a block of GGUF has its float16 scales. Without inputs: the format has no such blocks.
struct BlockLayout {
  std::size_t inputs = 0;
  std::size_t bytes = 0;
  std::size_t first_scale = 0;
  std::size_t scales = 0;  // one after the other; kGgufMxfp4 has a byte instead
};
BlockLayout block_layout(SourceFormat format);

// out[c] = W[row, col_begin + c], exactly: a product and a sum, each rounded once, where the format
// has an offset. Not of kHeads.
void dequantize_row(const SourceMatrix& source, std::size_t row, std::size_t col_begin,
                    std::span<float> out);

// ---- Weights as kept ------------------------------------------------------------------------

// Floats first, then integers, of these the affine ones last: is_integer and is_affine rely on it.
enum class PackedFormat : std::uint8_t {
  kF32,
  kF16,
  kBF16,
  kFp8,
  kInt8,
  kInt4,
  kMxfp4,
  kInt4Affine,  // a float32 scale and offset for each 32 inputs of a row
  kInt8Affine,
  kInt8Halves,  // a float32 scale for each 16
};
inline constexpr auto kLastPackedFormat = PackedFormat::kInt8Halves;

std::string_view name(PackedFormat format);

struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// A packed matrix in memory that someone else owns (64-byte aligned).
struct PackedMatrix {
  PackedFormat format = PackedFormat::kF32;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t block_offset = 0;  // kFp8: where in its 128-block the first column lies
  std::span<const std::byte> data;

  std::size_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
};

// The format that keeps the file's values: INT4 -> kInt4, FP8 -> kFp8, Q4_K -> kInt4Affine, ...
PackedFormat native_format(SourceFormat format);
std::size_t panel_bytes(PackedFormat format, std::size_t cols, std::size_t block_offset);
std::size_t packed_bytes(PackedFormat format, std::size_t rows, std::size_t cols,
                         std::size_t block_offset);

// Whether a source so packed keeps its whole numbers and scales.
bool keeps_groups(SourceFormat source, PackedFormat format);

// Packs panel `panel` of the sub-matrix rows x cols of `source`. `out` is that panel's bytes.
// Where the source's own groups are kept (`keeps_groups`), whole groups alone and never transposed.
// Else int8: symmetric, scale = bf16(absmax / 127) rounded up, q = rne(w / scale); int4: q = rne(w
// / scale) in [-8, 7], with the bf16 scale, of a few, of least squared error. With `transposed`,
// packs the transpose of that sub-matrix: its panels run over `cols`, and groups run along `rows`.
void pack_panel(const SourceMatrix& source, Range rows, Range cols, bool transposed,
                PackedFormat format, std::size_t panel, std::span<std::byte> out);

// out[c] = value of row `row`, column c of a packed matrix, exactly.
void unpack_row(const PackedMatrix& matrix, std::size_t row, std::span<float> out);

// ---- Activations ------------------------------------------------------------------------------

// Rows of activations, as floats and, for the integer formats, rounded to int8.
struct Activations {
  std::size_t tokens = 0;
  std::size_t cols = 0;
  const float* x = nullptr;  // [tokens, x_stride]
  std::size_t x_stride = 0;
  const std::int8_t* q = nullptr;     // [tokens, padded_cols(cols)], zero beyond cols
  const float* scale = nullptr;       // [tokens, groups(cols)]
  const std::int32_t* sum = nullptr;  // [tokens, groups(cols)]: sum of q over the group
};

// Formats that meet activations rounded to int8, in groups of 32.
constexpr bool is_integer(PackedFormat format) { return format >= PackedFormat::kInt8; }
constexpr std::size_t groups(std::size_t cols) { return (cols + kGroup - 1) / kGroup; }
constexpr std::size_t padded_cols(std::size_t cols) { return groups(cols) * kGroup; }

// Rows of an attention cache as floats: keys or values of `n` positions.
struct CacheBlock {
  const float* rows = nullptr;  // [n, stride]
  std::size_t n = 0;
  std::size_t stride = 0;
  std::size_t width = 0;  // <= stride
};

// ---- Operations, one table per instruction set --------------------------------------------------

struct Operations {
  // y[t * y_stride + r - 16 * panels.begin] = W[r, :] . x[t, :] for the rows r of `panels`.
  // Rows of x may be longer than W's: the first W.cols values count.
  // Writes whole panels: up to 15 values beyond the matrix's last row.
  void (*gemm)(const PackedMatrix& w, Range panels, const Activations& x, float* y,
               std::size_t y_stride);
  void (*gemm_exact)(const PackedMatrix& w, Range panels, const Activations& x, float* y,
                     std::size_t y_stride);

  // Rounds one row: scale = absmax / 127, q = rne(x * (127 / absmax)); a zero group has scale 0,
  // one that holds a NaN or an infinity scale NaN.
  void (*quantize_row)(std::span<const float> x, std::int8_t* q, float* scale, std::int32_t* sum);

  // y[i] = x[i] * (1 / sqrt(mean(x^2) + eps)) * weight[i]. Sums in 16 interleaved lanes, then a
  // tree.
  void (*rms_norm)(std::span<const float> x, std::span<const float> weight, float eps, float* y);

  // y[i] = silu(gate[i]) * up[i], silu(z) = z / (1 + exp(-z))
  void (*silu_mul)(std::span<const float> gate, std::span<const float> up, float* y);

  // y[i] = (u + 1) * g * sigmoid(1.702 * g), g = min(gate[i], limit), u = up[i] within +-limit
  void (*clamped_swiglu)(std::span<const float> gate, std::span<const float> up, float limit,
                         float* y);

  void (*sigmoid)(std::span<const float> x, float* y);
  void (*exp_minus)(std::span<const float> x, float subtract, float* y);  // exp(x - subtract)

  void (*axpy)(float a, std::span<const float> x, float* y);  // y += a * x, by fma
  void (*scale)(float a, std::span<float> y);                 // y *= a

  // Reads `bytes` as `streams` (1, 2, 4 or 8) regions, a line of each in turn: the yardstick of
  // memory speed.
  float (*read_streams)(std::span<const std::byte> bytes, std::size_t streams);

  void (*bf16_to_f32)(std::span<const std::uint16_t> x, float* y);

  // scores[h * n + s] = factor * dot(q + h * q_stride, rows[s])
  void (*cache_scores)(const CacheBlock& block, const float* q, std::size_t q_stride,
                       std::size_t heads, float factor, float* scores);
  // out[h] = out[h] * keep[h] + sum of p[h * n + s] * rows[s], s ascending
  void (*cache_values)(const CacheBlock& block, const float* p, const float* keep,
                       std::size_t heads, float* out, std::size_t out_stride);
};

enum class Isa : std::uint8_t { kScalar, kAvx2, kAvx512Vnni, kNeon };

std::string_view name(Isa isa);     // "scalar", "avx2", "avx512", "neon"
std::vector<Isa> available_isas();  // of this machine and build, slowest first
// `wanted`: "" or "auto" for the fastest, else a name; an error names the choices.
Result<Isa> choose_isa(std::string_view wanted);
const Operations& operations(Isa isa);

}  // namespace conclave::kernels
