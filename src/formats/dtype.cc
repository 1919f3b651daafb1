#include "formats/dtype.h"

#include <algorithm>
#include <array>

namespace conclave::formats {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t size_bytes;
  std::size_t inputs = 1;  // that share it
};

// In the order of the enumerators, so that a DType is an index.
constexpr std::array<DTypeRow, 27> kRows = {{
    {DType::kF64, "F64", 8},
    {DType::kF32, "F32", 4},
    {DType::kF16, "F16", 2},
    {DType::kBF16, "BF16", 2},
    {DType::kI64, "I64", 8},
    {DType::kI32, "I32", 4},
    {DType::kI16, "I16", 2},
    {DType::kI8, "I8", 1},
    {DType::kU64, "U64", 8},
    {DType::kU32, "U32", 4},
    {DType::kU16, "U16", 2},
    {DType::kU8, "U8", 1},
    {DType::kBool, "BOOL", 1},
    {DType::kF8E4M3, "F8_E4M3", 1},
    {DType::kF8E5M2, "F8_E5M2", 1},
    {DType::kF8E8M0, "F8_E8M0", 1},
    {DType::kQ4_0, "Q4_0", 18, 32},
    {DType::kQ4_1, "Q4_1", 20, 32},
    {DType::kQ5_0, "Q5_0", 22, 32},
    {DType::kQ5_1, "Q5_1", 24, 32},
    {DType::kQ8_0, "Q8_0", 34, 32},
    {DType::kQ4K, "Q4_K", 144, 256},
    {DType::kQ5K, "Q5_K", 176, 256},
    {DType::kQ6K, "Q6_K", 210, 256},
    {DType::kIq4Nl, "IQ4_NL", 18, 32},
    {DType::kIq4Xs, "IQ4_XS", 136, 256},
    {DType::kGgufMxfp4, "MXFP4", 17, 32},
}};

const DTypeRow& row_of(DType dtype) {
  const auto index = static_cast<std::size_t>(dtype);
  CHECK(index < kRows.size());
  return kRows[index];
}

}  // namespace

std::string_view name(DType dtype) { return row_of(dtype).name; }

std::size_t size_bytes(DType dtype) { return row_of(dtype).size_bytes; }

std::size_t block_inputs(DType dtype) { return row_of(dtype).inputs; }

std::optional<DType> parse_dtype(std::string_view text) {
  const auto row = std::ranges::find(kRows, text, &DTypeRow::name);
  if (row == kRows.end() || row->inputs > 1) return std::nullopt;
  return row->dtype;
}

std::string shape_text(std::span<const std::size_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

std::string printable(std::string_view text) {
  constexpr std::size_t kShownMax = 160;
  std::size_t size = std::min(text.size(), kShownMax);
  const auto splits_utf8 = [text](std::size_t at) {
    return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;
  };
  while (size > 0 && splits_utf8(size)) --size;
  std::string shown(text.substr(0, size));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > size) shown += "...";
  return shown;
}

}  // namespace conclave::formats
