#include "backend/packed_part.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>

#include "base/check.h"
#include "base/little_endian.h"

namespace conclave::backend {
namespace {

using kernels::PackedFormat;
using kernels::Range;
using kernels::SourceMatrix;
using model::MatrixPart;
using model::Weight;

constexpr auto kWeightLast = static_cast<std::uint8_t>(Weight::kHead);
constexpr auto kFormatLast = static_cast<std::uint8_t>(kernels::kLastPackedFormat);

bool has_layer(Weight weight) { return weight != Weight::kEmbedding && weight != Weight::kHead; }

std::size_t element_bytes(PackedFormat format) { return format == PackedFormat::kF32 ? 4 : 2; }

bool is_plain(PackedFormat format) {
  return format == PackedFormat::kF32 || format == PackedFormat::kF16 ||
         format == PackedFormat::kBF16;
}

// Of the embedding: rows as the file has them, or panels.
bool is_embedding_format(PackedFormat format) {
  return is_plain(format) || kernels::is_integer(format);
}

Error bad_field(std::string_view name, std::uint64_t found, std::string_view expected) {
  return corrupt("packed part: " + std::string(name) + " " + std::to_string(found) + ", expected " +
                 std::string(expected));
}

Result<Range> decode_range(std::span<const std::byte> bytes, std::size_t offset,
                           std::string_view name) {
  const Range range = {get_little_endian<std::uint32_t>(bytes, offset),
                       get_little_endian<std::uint32_t>(bytes, offset + 4)};
  if (range.end > kPartDimensionMax) {
    return bad_field(name, range.end, "at most " + std::to_string(kPartDimensionMax));
  }
  if (range.begin >= range.end) {
    return bad_field(name, range.begin, "less than their end, " + std::to_string(range.end));
  }
  return range;
}

// The matrix as this format's panels; nothing here may reach a CHECK of pack_panel.
Result<void> check_format(const PackedPart& part, const MatrixPart& stored) {
  const SourceMatrix& matrix = stored.matrix;
  const PackedFormat native = kernels::native_format(matrix.format);
  const Error bad =
      invalid_input(describe(part) + ": cannot be made from " + std::string(kernels::name(native)));
  if (part.weight == Weight::kEmbedding) {
    const bool whole = part.cols == Range{0, matrix.cols} && !part.transposed;
    if (!whole || part.format != native || !is_embedding_format(native)) return bad;
    return {};
  }
  if (kernels::keeps_groups(matrix.format, part.format) && !model::is_in_groups(stored)) return bad;
  switch (part.format) {
    case PackedFormat::kF32:
    case PackedFormat::kInt8:
    case PackedFormat::kInt4:
      return {};
    case PackedFormat::kF16:
    case PackedFormat::kBF16:
    case PackedFormat::kFp8:
    case PackedFormat::kMxfp4:
    case PackedFormat::kInt4Affine:
    case PackedFormat::kInt8Affine:
    case PackedFormat::kInt8Halves:
      if (part.format != native) return bad;
      return {};
  }
  return bad;
}

Result<MatrixPart> find(const model::ModelSource& source, const PackedPart& part) {
  if (!source.has(part.layer, part.weight, part.expert)) {
    return invalid_input(describe(part) + ": the model has no such weight");
  }
  const SourceMatrix matrix = source.matrix(part.layer, part.weight, part.expert);
  const auto outside = [](Range range, std::size_t size) {
    return range.begin >= range.end || range.end > size;
  };
  if (outside(part.rows, matrix.rows) || outside(part.cols, matrix.cols)) {
    return invalid_input(describe(part) + ": empty or outside of the matrix of [" +
                         std::to_string(matrix.rows) + ", " + std::to_string(matrix.cols) + "]");
  }
  const auto stored = model::stored_part({matrix, part.rows, part.cols, part.transposed});
  if (!stored) return invalid_input(describe(part) + ": not within one half of one head");
  TRY(check_format(part, *stored));
  return *stored;
}

// Reads every byte of the rows for the first time where the file is large: by all threads.
Result<void> check_rows(const model::ModelSource& source, const PackedPart& part,
                        ThreadPool& pool) {
  // FP8's checks widen to 128 rows, and those of a split kv_b to a head.
  const std::size_t step = part.weight == Weight::kKvB ? part.rows.size() : kernels::kFp8BlockSize;
  std::mutex mutex;
  std::optional<Error> first;
  pool.parallel_for((part.rows.size() + step - 1) / step, [&](std::size_t i, std::size_t) {
    const std::size_t begin = part.rows.begin + i * step;
    const Range rows = {begin, std::min(begin + step, part.rows.end)};
    const Result<void> checked = source.check(part.layer, part.weight, part.expert, rows);
    if (checked) return;
    const std::scoped_lock lock(mutex);
    if (!first) first = checked.error();
  });
  if (first) return *first;
  return {};
}

}  // namespace

std::size_t PackedPart::block_offset() const {
  const std::size_t begin = transposed ? rows.begin : cols.begin;
  return format == PackedFormat::kFp8 ? begin % kernels::kFp8BlockSize : 0;
}

bool PackedPart::in_rows() const { return weight == Weight::kEmbedding && is_plain(format); }

std::size_t PackedPart::size_bytes() const {
  if (in_rows()) return rows.size() * cols.size() * element_bytes(format);
  return kernels::packed_bytes(format, lanes(), inputs(), block_offset());
}

std::string describe(const PackedPart& part) {
  const auto text = [](Range range) {
    return std::to_string(range.begin) + ":" + std::to_string(range.end);
  };
  std::string out = "packed part: weight " + std::to_string(static_cast<unsigned>(part.weight));
  if (has_layer(part.weight)) out += " of layer " + std::to_string(part.layer.value);
  if (model::is_expert(part.weight)) out += ", expert " + std::to_string(part.expert.value);
  return out + " [" + text(part.rows) + ", " + text(part.cols) + "]" +
         (part.transposed ? " transposed" : "") + " as " + std::string(name(part.format));
}

std::array<std::byte, kPartEncodingSize> encode_part(const PackedPart& part) {
  std::array<std::byte, kPartEncodingSize> bytes{};
  put_little_endian(bytes, 0, kPartVersion);
  put_little_endian(bytes, 1, static_cast<std::uint8_t>(part.weight));
  put_little_endian(bytes, 2, static_cast<std::uint8_t>(part.format));
  put_little_endian(bytes, 3, static_cast<std::uint8_t>(part.transposed ? 1 : 0));
  put_little_endian(bytes, 4, part.layer.value);
  put_little_endian(bytes, 6, part.expert.value);
  std::size_t offset = 8;
  for (const std::size_t edge : {part.rows.begin, part.rows.end, part.cols.begin, part.cols.end}) {
    CHECK(edge <= kPartDimensionMax);
    put_little_endian(bytes, offset, static_cast<std::uint32_t>(edge));
    offset += 4;
  }
  put_little_endian(bytes, offset, static_cast<std::uint64_t>(part.size_bytes()));
  return bytes;
}

Result<PackedPart> decode_part(std::span<const std::byte> bytes) {
  if (bytes.size() != kPartEncodingSize) {
    return bad_field("size", bytes.size(), std::to_string(kPartEncodingSize) + " bytes");
  }
  const auto version = get_little_endian<std::uint8_t>(bytes, 0);
  if (version != kPartVersion) return bad_field("version", version, std::to_string(kPartVersion));
  const auto weight = get_little_endian<std::uint8_t>(bytes, 1);
  if (weight > kWeightLast) return bad_field("weight", weight, "a known one");
  const auto format = get_little_endian<std::uint8_t>(bytes, 2);
  if (format > kFormatLast) return bad_field("format", format, "a known one");
  const auto transposed = get_little_endian<std::uint8_t>(bytes, 3);
  if (transposed > 1) return bad_field("transposed", transposed, "0 or 1");
  PackedPart part;
  part.weight = static_cast<Weight>(weight);
  part.format = static_cast<PackedFormat>(format);
  part.transposed = transposed == 1;
  part.layer.value = get_little_endian<std::uint16_t>(bytes, 4);
  part.expert.value = get_little_endian<std::uint16_t>(bytes, 6);
  if (!has_layer(part.weight) && part.layer.value != 0) {
    return bad_field("layer", part.layer.value, "0 for a weight outside the layers");
  }
  if (!model::is_expert(part.weight) && part.expert.value != 0) {
    return bad_field("expert", part.expert.value, "0 for a weight that is no expert's");
  }
  part.rows = TRY(decode_range(bytes, 8, "rows"));
  part.cols = TRY(decode_range(bytes, 16, "columns"));
  if (part.weight == Weight::kEmbedding && (part.transposed || !is_embedding_format(part.format))) {
    return bad_field("format", format, "plain numbers or integers for the embedding");
  }
  const auto size = get_little_endian<std::uint64_t>(bytes, 24);
  if (size != part.size_bytes()) {
    return bad_field("bytes", size, std::to_string(part.size_bytes()) + " for its panels");
  }
  if (size > kPartBytesMax) {
    return bad_field("bytes", size, "at most " + std::to_string(kPartBytesMax));
  }
  return part;
}

Result<void> pack_part(const model::ModelSource& source, const PackedPart& part, ThreadPool& pool,
                       std::span<std::byte> out) {
  const MatrixPart stored = TRY(find(source, part));
  if (out.size() != part.size_bytes()) {
    return invalid_input(describe(part) + ": " + std::to_string(out.size()) +
                         " bytes of room, expected " + std::to_string(part.size_bytes()));
  }
  TRY(check_rows(source, part, pool));
  if (part.in_rows()) {
    const std::size_t row_bytes = stored.matrix.cols * element_bytes(part.format);
    std::memcpy(out.data(), stored.matrix.weights.data() + part.rows.begin * row_bytes, out.size());
  } else {
    const std::size_t bytes = kernels::panel_bytes(part.format, part.inputs(), part.block_offset());
    pool.parallel_for(out.size() / bytes, [&](std::size_t panel, std::size_t) {
      kernels::pack_panel(stored.matrix, stored.rows, stored.cols, stored.transposed, part.format,
                          panel, out.subspan(panel * bytes, bytes));
    });
  }
  source.drop(stored.matrix, stored.rows);
  return {};
}

}  // namespace conclave::backend
