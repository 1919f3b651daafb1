// Every quantised format against other programs' decoders, bit for bit, and kept as it is.
// tools/reference/format_vectors.py wrote the vectors.
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "formats/formats.h"
#include "kernels/kernels.h"

namespace conclave::model {
namespace {

using formats::DType;
using formats::Tensor;
using kernels::PackedFormat;
using kernels::SourceFormat;
using kernels::SourceMatrix;

class Vectors {
 public:
  explicit Vectors(const std::string& name)
      : file_(MappedFile::open("tests/golden/formats/" + name).value()) {
    std::vector<Tensor> found = formats::parse_safetensors(file_.bytes(), name).value();
    for (Tensor& tensor : found) {
      tensors_.emplace(tensor.name, std::move(tensor));
    }
  }
  const Tensor& at(const std::string& name) const { return tensors_.at(name); }
  std::vector<float> values(const std::string& name) const {
    const Tensor& tensor = at(name);
    std::vector<float> out(tensor.bytes.size() / sizeof(float));
    std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
    return out;
  }
  const std::map<std::string, Tensor>& all() const { return tensors_; }

 private:
  MappedFile file_;
  std::map<std::string, Tensor> tensors_;
};

std::vector<float> decoded(const SourceMatrix& matrix) {
  std::vector<float> out(matrix.rows * matrix.cols);
  for (std::size_t row = 0; row < matrix.rows; ++row) {
    kernels::dequantize_row(matrix, row, 0, std::span(out).subspan(row * matrix.cols, matrix.cols));
  }
  return out;
}

void expect_same_bits(std::span<const float> found, std::span<const float> expected,
                      const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(found[i]), std::bit_cast<std::uint32_t>(expected[i]))
        << what << " value " << i << ": " << found[i] << ", expected " << expected[i];
  }
}

// Packed and read again: the same numbers, though -0 may be 0.
void expect_kept(const SourceMatrix& matrix, std::span<const float> expected, float tolerance,
                 const std::string& what) {
  const PackedFormat format = kernels::native_format(matrix.format);
  std::vector<std::byte> bytes(kernels::packed_bytes(format, matrix.rows, matrix.cols, 0));
  const std::size_t panel = kernels::panel_bytes(format, matrix.cols, 0);
  for (std::size_t p = 0; p * panel < bytes.size(); ++p) {
    kernels::pack_panel(matrix, {0, matrix.rows}, {0, matrix.cols}, false, format, p,
                        std::span(bytes).subspan(p * panel, panel));
  }
  std::vector<float> row(matrix.cols);
  for (std::size_t r = 0; r < matrix.rows; ++r) {
    kernels::unpack_row({format, matrix.rows, matrix.cols, 0, bytes}, r, row);
    for (std::size_t c = 0; c < row.size(); ++c) {
      const float wanted = expected[r * matrix.cols + c];
      ASSERT_NEAR(row[c], wanted, tolerance * (1.0f + std::abs(wanted)))
          << what << " " << r << " " << c;
    }
  }
}

struct GgufCase {
  const char* name;
  SourceFormat format;
  std::size_t inputs;
};
constexpr GgufCase kGgufCases[] = {
    {"Q4_0", SourceFormat::kQ4_0, 32},       {"Q4_1", SourceFormat::kQ4_1, 32},
    {"Q5_0", SourceFormat::kQ5_0, 32},       {"Q5_1", SourceFormat::kQ5_1, 32},
    {"Q8_0", SourceFormat::kQ8_0, 32},       {"IQ4_NL", SourceFormat::kIq4Nl, 32},
    {"Q4_K", SourceFormat::kQ4K, 256},       {"Q5_K", SourceFormat::kQ5K, 256},
    {"Q6_K", SourceFormat::kQ6K, 256},       {"IQ4_XS", SourceFormat::kIq4Xs, 256},
    {"MXFP4", SourceFormat::kGgufMxfp4, 32},
};

TEST(GoldenFormats, GgufDecodesAsGgufPyDoes) {
  const Vectors vectors("gguf.safetensors");
  for (const GgufCase& c : kGgufCases) {
    const Tensor& blocks = vectors.at(std::string(c.name) + ".blocks");
    const std::vector<float> expected = vectors.values(std::string(c.name) + ".values");
    const SourceMatrix matrix{c.format, blocks.shape[0] / 3, 3 * c.inputs, blocks.bytes, {}};
    expect_same_bits(decoded(matrix), expected, c.name);
    expect_kept(matrix, expected, 0.0f, c.name);
  }
}

SourceMatrix mlx_matrix(const Vectors& vectors, const std::string& stem) {
  const Tensor& words = vectors.at(stem + ".weight");
  const Tensor& scales = vectors.at(stem + ".scales");
  const std::size_t cols = vectors.at(stem + ".values").shape[1];
  SourceMatrix matrix{SourceFormat::kMlx4, words.shape[0], cols, words.bytes, scales.bytes};
  matrix.bits = static_cast<unsigned>(words.shape[1] * 32 / cols);
  if (matrix.bits > 4) matrix.format = SourceFormat::kMlx8;
  matrix.group = cols / scales.shape[1];
  matrix.offsets = vectors.at(stem + ".biases").bytes;
  matrix.scale_type = scales.dtype == DType::kF32   ? kernels::ScaleType::kF32
                      : scales.dtype == DType::kF16 ? kernels::ScaleType::kF16
                                                    : kernels::ScaleType::kBF16;
  return matrix;
}

TEST(GoldenFormats, MlxDecodesAsMlxDoes) {
  const Vectors vectors("mlx.safetensors");
  std::size_t count = 0;
  for (const auto& [name, tensor] : vectors.all()) {
    constexpr std::string_view kWords = ".weight";
    if (!name.ends_with(kWords)) continue;
    const std::string stem = name.substr(0, name.size() - kWords.size());
    const SourceMatrix matrix = mlx_matrix(vectors, stem);
    const std::vector<float> expected = vectors.values(stem + ".values");
    expect_same_bits(decoded(matrix), expected, stem);
    // With float32 scales product and sum are rounded once when kept, twice when decoded.
    expect_kept(matrix, expected, matrix.scale_type == kernels::ScaleType::kF32 ? 1e-6f : 0.0f,
                stem);
    ++count;
  }
  EXPECT_EQ(count, 36u);
}

// Groups of 32 to all of a row, in 4 and 8 bits, with zero points and without.
TEST(GoldenFormats, PackedDecodesAsCompressedTensorsDoes) {
  const Vectors vectors("packed.safetensors");
  std::size_t count = 0;
  for (const auto& [name, tensor] : vectors.all()) {
    constexpr std::string_view kWords = ".weight_packed";
    if (!name.ends_with(kWords)) continue;
    const std::string stem = name.substr(0, name.size() - kWords.size());
    const std::size_t cols = vectors.at(stem + ".values").shape[1];
    const Tensor& scales = vectors.at(stem + ".weight_scale");
    SourceMatrix matrix{SourceFormat::kPacked4, tensor.shape[0], cols, tensor.bytes, scales.bytes};
    matrix.bits = static_cast<unsigned>(tensor.shape[1] * 32 / cols);
    if (matrix.bits == 8) matrix.format = SourceFormat::kPacked8;
    matrix.group = cols / scales.shape[1];
    matrix.scale_type = kernels::ScaleType::kF32;
    if (stem.find(".asym") != stem.npos) {
      matrix.offsets = vectors.at(stem + ".weight_zero_point").bytes;
    }
    const std::vector<float> expected = vectors.values(stem + ".values");
    expect_same_bits(decoded(matrix), expected, stem);
    // 255 times a float32 scale, less as much: half a unit of 76's last place.
    expect_kept(matrix, expected, 4e-6f, stem);
    ++count;
  }
  EXPECT_EQ(count, 16u);
}

// A slice that begins within a block, or within a group of 64, has its scales and offsets.
TEST(GoldenFormats, SlicesBeginWithinBlocks) {
  const Vectors gguf("gguf.safetensors");
  const Vectors mlx("mlx.safetensors");
  const Tensor& blocks = gguf.at("Q4_K.blocks");
  const SourceMatrix q4k{SourceFormat::kQ4K, blocks.shape[0], 256, blocks.bytes, {}};
  const SourceMatrix g64 = mlx_matrix(mlx, "b4.g64.BF16");
  for (const SourceMatrix& matrix : {q4k, g64}) {
    const kernels::Range cols{96, 128};
    const kernels::Range rows{1, 4};
    const PackedFormat format = kernels::native_format(matrix.format);
    std::vector<std::byte> bytes(kernels::packed_bytes(format, rows.size(), cols.size(), 0));
    kernels::pack_panel(matrix, rows, cols, false, format, 0, bytes);
    std::vector<float> found(cols.size()), expected(cols.size());
    for (std::size_t r = 0; r < rows.size(); ++r) {
      kernels::unpack_row({format, rows.size(), cols.size(), 0, bytes}, r, found);
      kernels::dequantize_row(matrix, rows.begin + r, cols.begin, expected);
      EXPECT_EQ(found, expected);
    }
  }
}

}  // namespace
}  // namespace conclave::model
