// One matrix in any of the quantised layouts, its types and shapes right or nearly so and its bytes
// anything: an error, or a matrix that can be checked, read and packed; never a crash.
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "model/matrices.h"

namespace {

using conclave::formats::Checkpoint;
using conclave::kernels::PackedFormat;
using conclave::kernels::SourceMatrix;
using conclave::model::Description;
using conclave::model::QuantMethod;

// Takes the input apart, and gives zeros at its end.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data, size) {}
  std::size_t next(std::size_t below) {
    if (data_.empty()) return 0;
    const std::uint8_t byte = data_.front();
    data_ = data_.subspan(1);
    return byte % below;
  }
  // Wrong now and then.
  std::size_t about(std::size_t right) { return next(16) == 15 ? next(8) : right; }
  std::string bytes(std::size_t count) {
    std::string out;
    for (std::size_t i = 0; i < count; ++i) out += static_cast<char>(next(256));
    return out;
  }

 private:
  std::span<const std::uint8_t> data_;
};

struct File {
  std::string header, data;

  void add(Input& in, std::string_view name, std::string_view dtype, std::size_t element,
           std::vector<std::size_t> shape) {
    std::size_t size = element;
    std::string dimensions;
    for (std::size_t& one : shape) {
      one = in.about(one);
      size *= one;
      dimensions += (dimensions.empty() ? "" : ",") + std::to_string(one);
    }
    header += (header.empty() ? "\"" : ",\"") + std::string(name) + "\":{\"dtype\":\"" +
              std::string(dtype) + "\",\"shape\":[" + dimensions + "],\"data_offsets\":[" +
              std::to_string(data.size()) + "," + std::to_string(data.size() + size) + "]}";
    data += in.bytes(size);
  }

  void write(const std::filesystem::path& path) const {
    const std::string json = "{" + header + "}";
    const std::uint64_t size = json.size();
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(&size), sizeof size);
    out << json << data;
  }
};

struct Type {
  std::string_view name;
  std::size_t bytes;
};
constexpr std::array kScales = {Type{"BF16", 2}, Type{"F16", 2}, Type{"F32", 4}, Type{"U8", 1}};

void add_mlx(Input& in, File& file, std::size_t rows, std::size_t cols) {
  const std::size_t bits = 2 + in.next(8);
  const std::size_t group = std::size_t{32} << in.next(3);
  const Type scale = kScales[in.next(4)];
  file.add(in, "m.weight", "U32", 4, {rows, cols * bits / 32});
  file.add(in, "m.scales", scale.name, scale.bytes, {rows, cols / group});
  file.add(in, "m.biases", scale.name, scale.bytes, {rows, cols / group});
}

void add_packed(Input& in, File& file, std::size_t rows, std::size_t cols) {
  const std::size_t bits = in.next(2) == 0 ? 4 : 8;
  const std::size_t group = std::size_t{32} << in.next(3);
  const Type scale = kScales[in.next(3)];
  file.add(in, "m.weight_packed", "I32", 4, {rows, cols * bits / 32});
  file.add(in, "m.weight_scale", scale.name, scale.bytes, {rows, cols / group});
  if (in.next(2) == 0) return;
  const std::size_t per_word = 32 / bits;
  file.add(in, "m.weight_zero_point", "I32", 4, {(rows + per_word - 1) / per_word, cols / group});
}

void add_fp8(Input& in, File& file, std::size_t rows, std::size_t cols) {
  file.add(in, "m.weight", "F8_E4M3", 1, {rows, cols});
  file.add(in, "m.weight_scale_inv", "F32", 4, {(rows + 127) / 128, (cols + 127) / 128});
}

void pack_and_read(const SourceMatrix& matrix) {
  std::vector<float> row(matrix.cols);
  for (std::size_t r = 0; r < matrix.rows; ++r) {
    conclave::kernels::dequantize_row(matrix, r, 0, row);
  }
  for (const PackedFormat format : {conclave::kernels::native_format(matrix.format),
                                    PackedFormat::kInt8, PackedFormat::kInt4}) {
    const std::size_t bytes = conclave::kernels::panel_bytes(format, matrix.cols, 0);
    std::vector<std::byte> panel(bytes);
    conclave::kernels::pack_panel(matrix, {0, matrix.rows}, {0, matrix.cols}, false, format, 0,
                                  panel);
    const std::size_t rows = std::min<std::size_t>(matrix.rows, 16);
    conclave::kernels::unpack_row({format, rows, matrix.cols, 0, panel}, rows - 1, row);
  }
}

// GGUF's blocks; what lies around them is fuzz_gguf's.
void use_blocks(Input& in, std::size_t rows) {
  using conclave::kernels::SourceFormat;
  constexpr std::size_t kFirst = static_cast<std::size_t>(SourceFormat::kQ4_0);
  constexpr std::size_t kCount = static_cast<std::size_t>(SourceFormat::kMlx4) - kFirst;
  const auto format = static_cast<SourceFormat>(kFirst + in.next(kCount));
  const conclave::kernels::BlockLayout layout = conclave::kernels::block_layout(format);
  const std::size_t blocks = 1 + in.next(3);
  const std::string bytes = in.bytes(rows * blocks * layout.bytes);
  const SourceMatrix matrix{
      format, rows, blocks * layout.inputs, std::as_bytes(std::span(bytes)), {}};
  if (conclave::model::check_scales(matrix, "m")) pack_and_read(matrix);
}

std::filesystem::path make_folder() {
  std::string name = "/tmp/conclave-fuzz-XXXXXX";
  CHECK(mkdtemp(name.data()) != nullptr);
  static const std::filesystem::path kept = name;
  std::atexit([] { std::filesystem::remove_all(kept); });
  return kept;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::filesystem::path folder = make_folder();
  Input in(data, size);
  const std::size_t rows = 1 + in.next(20);
  const std::size_t cols = 32 * (1 + in.next(8));
  File file;
  Description description;
  for (const std::size_t bits : {2u, 3u, 4u, 5u, 6u, 8u}) {
    for (const std::size_t group : {0u, 32u, 64u, 128u}) {
      description.quantization.schemes.push_back({bits, group, in.next(2) == 0});
    }
  }
  switch (in.next(4)) {
    case 3:
      return use_blocks(in, rows), 0;
    case 0:
      add_mlx(in, file, rows, cols);
      description.quantization.method = QuantMethod::kMlx;
      break;
    case 1:
      add_packed(in, file, rows, cols);
      description.quantization.method = QuantMethod::kInt4Group;
      break;
    default:
      add_fp8(in, file, rows, cols);
      description.quantization.method = QuantMethod::kFp8Block;
  }
  file.write(folder / "model.safetensors");
  const auto checkpoint = Checkpoint::open(folder);
  if (!checkpoint) return 0;
  conclave::model::TensorTaker tensors(*checkpoint);
  conclave::model::MatrixTaker matrices(tensors, description);
  const auto linear = matrices.take("m", {rows, cols});
  if (linear && check_values(*linear)) pack_and_read(linear->matrix);
  return 0;
}
