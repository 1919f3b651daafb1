#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "base/little_endian.h"
#include "formats/dtype.h"
#include "formats/formats.h"

namespace conclave::formats {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::size_t kEntriesMax = 65'536;
constexpr std::uint64_t kListMax = std::uint64_t{1} << 24;
constexpr std::uint64_t kTextMax = std::uint64_t{16} << 20;
constexpr std::size_t kGgufDimensionsMax = 4;
constexpr std::uint64_t kAlignmentMax = std::uint64_t{1} << 20;

// The type behind a number of ggml's, where we read it.
std::optional<DType> ggml_type(std::uint32_t number) {
  switch (number) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 2:
      return DType::kQ4_0;
    case 3:
      return DType::kQ4_1;
    case 6:
      return DType::kQ5_0;
    case 7:
      return DType::kQ5_1;
    case 8:
      return DType::kQ8_0;
    case 12:
      return DType::kQ4K;
    case 13:
      return DType::kQ5K;
    case 14:
      return DType::kQ6K;
    case 20:
      return DType::kIq4Nl;
    case 23:
      return DType::kIq4Xs;
    case 26:
      return DType::kI32;
    case 28:
      return DType::kF64;
    case 30:
      return DType::kBF16;
    case 39:
      return DType::kGgufMxfp4;
    default:
      return std::nullopt;
  }
}

// Bytes of one value; 0 for text and lists.
std::size_t value_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

double float_of(GgufType type, std::span<const std::byte> bytes) {
  if (type == GgufType::kF32) return get_little_endian<float>(bytes, 0);
  return get_little_endian<double>(bytes, 0);
}

// A whole number of any width.
std::optional<std::int64_t> integer_of(GgufType type, std::span<const std::byte> bytes) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kBool:
      return get_little_endian<std::uint8_t>(bytes, 0);
    case GgufType::kI8:
      return get_little_endian<std::int8_t>(bytes, 0);
    case GgufType::kU16:
      return get_little_endian<std::uint16_t>(bytes, 0);
    case GgufType::kI16:
      return get_little_endian<std::int16_t>(bytes, 0);
    case GgufType::kU32:
      return get_little_endian<std::uint32_t>(bytes, 0);
    case GgufType::kI32:
      return get_little_endian<std::int32_t>(bytes, 0);
    case GgufType::kU64: {
      const auto value = get_little_endian<std::uint64_t>(bytes, 0);
      if (value > std::uint64_t{INT64_MAX}) return std::nullopt;
      return static_cast<std::int64_t>(value);
    }
    case GgufType::kI64:
      return get_little_endian<std::int64_t>(bytes, 0);
    default:
      return std::nullopt;
  }
}

// A value for a one-line message.
std::string shown(const GgufValue& value) {
  if (value.type == GgufType::kString) return "\"" + printable(as_text(value.bytes)) + "\"";
  if (value.type == GgufType::kArray) return "a list of " + std::to_string(value.count);
  if (const auto whole = integer_of(value.type, value.bytes)) return std::to_string(*whole);
  if (value.type == GgufType::kU64) return "a number beyond 2^63";
  return std::to_string(float_of(value.type, value.bytes));
}

class Reader {
 public:
  Reader(std::span<const std::byte> file, std::string label)
      : file_(file), label_(std::move(label)) {}

  std::size_t position() const { return position_; }

  Error bad(std::string_view what) const {
    return corrupt(label_ + ": byte " + std::to_string(position_) + ": " + std::string(what));
  }

  Result<std::span<const std::byte>> take(std::uint64_t count, std::string_view what) {
    if (count > file_.size() - position_) {
      return bad(std::string(what) + " of " + std::to_string(count) + " bytes in a file of " +
                 std::to_string(file_.size()) + " bytes: truncated");
    }
    const auto bytes = file_.subspan(position_, count);
    position_ += count;
    return bytes;
  }

  template <class T>
  Result<T> number(std::string_view what) {
    return get_little_endian<T>(TRY(take(sizeof(T), what)), 0);
  }

  Result<std::string_view> text(std::uint64_t size_max, std::string_view what) {
    const auto size = TRY(number<std::uint64_t>(what));
    if (size > size_max) {
      return bad(std::string(what) + " of " + std::to_string(size) + " bytes, limit " +
                 std::to_string(size_max));
    }
    return as_text(TRY(take(size, what)));
  }

  Result<GgufType> type() {
    const auto number_of_type = TRY(number<std::uint32_t>("type"));
    if (number_of_type > static_cast<std::uint32_t>(GgufType::kF64)) {
      return bad("type " + std::to_string(number_of_type) + ", expected 0 to 12");
    }
    return static_cast<GgufType>(number_of_type);
  }

  Result<GgufValue> value() {
    GgufValue out;
    out.type = TRY(type());
    if (out.type == GgufType::kArray) return list();
    if (out.type == GgufType::kString) {
      out.bytes = std::as_bytes(std::span(TRY(text(kTextMax, "text"))));
      return out;
    }
    out.bytes = TRY(take(value_bytes(out.type), "value"));
    return out;
  }

 private:
  Result<GgufValue> list() {
    GgufValue out;
    out.type = GgufType::kArray;
    out.element = TRY(type());
    if (out.element == GgufType::kArray)
      return bad("a list of lists, expected one of plain values");
    out.count = TRY(number<std::uint64_t>("list"));
    if (out.count > kListMax) {
      return bad("a list of " + std::to_string(out.count) + " values, limit " +
                 std::to_string(kListMax));
    }
    if (out.element != GgufType::kString) {
      out.bytes = TRY(take(out.count * value_bytes(out.element), "list"));
      return out;
    }
    const std::size_t begin = position_;
    for (std::uint64_t i = 0; i < out.count; ++i) TRY(text(kTextMax, "text in a list"));
    out.bytes = file_.subspan(begin, position_ - begin);
    return out;
  }

  std::span<const std::byte> file_;
  std::string label_;
  std::size_t position_ = 0;
};

Result<std::vector<GgufEntry>> read_metadata(Reader& reader, std::uint64_t count) {
  if (count > kEntriesMax) {
    return reader.bad(std::to_string(count) + " entries of metadata, limit " +
                      std::to_string(kEntriesMax));
  }
  std::vector<GgufEntry> entries;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string_view key = TRY(reader.text(65'535, "key"));
    entries.push_back({key, TRY(reader.value())});
  }
  std::ranges::sort(entries, {}, &GgufEntry::key);
  const auto twice = std::ranges::adjacent_find(entries, {}, &GgufEntry::key);
  if (twice != entries.end()) return reader.bad("key " + printable(twice->key) + " twice");
  return entries;
}

// Bytes of a tensor, or nothing where its innermost dimension is not whole blocks or they do not
// fit 64 bits.
std::optional<std::uint64_t> tensor_bytes(DType dtype, std::span<const std::size_t> shape) {
  const std::size_t inputs = block_inputs(dtype);
  if (inputs > 1 && (shape.empty() || shape.back() % inputs != 0)) return std::nullopt;
  std::uint64_t count = size_bytes(dtype);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::uint64_t size = i + 1 == shape.size() ? shape[i] / inputs : shape[i];
    if (__builtin_mul_overflow(count, size, &count)) return std::nullopt;
  }
  return count;
}

struct TensorEntry {
  Tensor tensor;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

Result<TensorEntry> read_tensor_entry(Reader& reader) {
  TensorEntry out;
  out.tensor.name = TRY(reader.text(kNameBytesMax, "tensor name"));
  const std::string shown = printable(out.tensor.name);
  if (out.tensor.name.empty()) return reader.bad("a tensor without a name");
  const auto dimensions = TRY(reader.number<std::uint32_t>("dimensions"));
  if (dimensions > kGgufDimensionsMax) {
    return reader.bad(shown + ": " + std::to_string(dimensions) + " dimensions, limit 4");
  }
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    out.tensor.shape.push_back(TRY(reader.number<std::uint64_t>("dimension")));
  }
  std::ranges::reverse(out.tensor.shape);  // the file has the innermost first
  const auto type = TRY(reader.number<std::uint32_t>("tensor type"));
  const std::optional<DType> dtype = ggml_type(type);
  if (!dtype) {
    return unsupported(reader.bad(shown).message + ": type " + std::to_string(type) +
                       ", expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, "
                       "Q6_K, IQ4_NL, IQ4_XS or MXFP4");
  }
  out.tensor.dtype = *dtype;
  const auto bytes = tensor_bytes(*dtype, out.tensor.shape);
  if (!bytes) {
    return reader.bad(shown + ": " + std::string(name(*dtype)) + " " +
                      shape_text(out.tensor.shape) + " is too large or not in whole blocks");
  }
  out.bytes = *bytes;
  out.offset = TRY(reader.number<std::uint64_t>("tensor offset"));
  return out;
}

Result<std::uint64_t> read_alignment(const std::vector<GgufEntry>& metadata, const Reader& reader) {
  for (const GgufEntry& entry : metadata) {
    if (entry.key != "general.alignment") continue;
    const bool is_u32 = entry.value.type == GgufType::kU32;
    const auto value = is_u32 ? get_little_endian<std::uint32_t>(entry.value.bytes, 0) : 0u;
    if (value >= 8 && value <= kAlignmentMax && std::has_single_bit(value)) return value;
    return reader.bad("general.alignment " + shown(entry.value) +
                      ", expected a power of two from 8 to 1048576, as u32");
  }
  return 32;
}

Result<void> check_overlap(std::vector<TensorEntry>& entries, const Reader& reader) {
  std::ranges::sort(entries, {}, &TensorEntry::offset);
  for (std::size_t i = 1; i < entries.size(); ++i) {
    if (entries[i - 1].offset + entries[i - 1].bytes <= entries[i].offset) continue;
    return reader.bad(printable(entries[i].tensor.name) + ": overlaps " +
                      printable(entries[i - 1].tensor.name));
  }
  return {};
}

}  // namespace

Result<GgufFile> parse_gguf(std::span<const std::byte> file, std::string_view label) {
  Reader reader(file, std::string(label));
  if (as_text(TRY(reader.take(kMagic.size(), "magic"))) != kMagic) {
    return reader.bad("does not start with GGUF");
  }
  const auto version = TRY(reader.number<std::uint32_t>("version"));
  if (version != 2 && version != 3) {
    return unsupported(reader.bad("version " + std::to_string(version)).message +
                       ", expected 2 or 3");
  }
  const auto n_tensors = TRY(reader.number<std::uint64_t>("number of tensors"));
  const auto n_entries = TRY(reader.number<std::uint64_t>("number of entries"));
  if (n_tensors > kTensorsMax) {
    return reader.bad(std::to_string(n_tensors) + " tensors, limit " + std::to_string(kTensorsMax));
  }
  GgufFile out;
  out.metadata = TRY(read_metadata(reader, n_entries));
  std::vector<TensorEntry> entries;
  for (std::uint64_t i = 0; i < n_tensors; ++i) {
    entries.push_back(TRY(read_tensor_entry(reader)));
  }
  const std::uint64_t alignment = TRY(read_alignment(out.metadata, reader));
  out.header_bytes = reader.position();
  const std::uint64_t data = (reader.position() + alignment - 1) / alignment * alignment;
  for (const TensorEntry& entry : entries) {
    const std::string shown = printable(entry.tensor.name);
    if (entry.offset % alignment != 0) return reader.bad(shown + ": offset is not aligned");
    std::uint64_t end = 0;
    if (__builtin_add_overflow(entry.offset, entry.bytes, &end) ||
        __builtin_add_overflow(end, data, &end) || end > file.size()) {
      return reader.bad(shown + ": " + std::to_string(entry.bytes) +
                        " bytes reach beyond the file's " + std::to_string(file.size()) +
                        ": truncated");
    }
  }
  TRY(check_overlap(entries, reader));
  for (TensorEntry& entry : entries) {
    entry.tensor.bytes = file.subspan(data + entry.offset, entry.bytes);
    out.tensors.push_back(std::move(entry.tensor));
  }
  return out;
}

Result<Gguf> Gguf::open(const std::vector<std::filesystem::path>& paths) {
  CHECK(!paths.empty());
  Gguf out;
  out.label_ = paths.front().filename().string();
  out.files_.reserve(paths.size());
  for (const std::filesystem::path& path : paths) {
    out.files_.push_back(TRY(MappedFile::open(path)));
    const MappedFile& file = out.files_.back();
    GgufFile parsed = TRY(parse_gguf(file.bytes(), path.filename().string()));
    if (&path == &paths.front()) out.metadata_ = std::move(parsed.metadata);
    out.header_bytes_.push_back(parsed.header_bytes);
    for (Tensor& tensor : parsed.tensors) {
      tensor.file = &file;  // stays where it is: the vector is large enough
      out.tensors_.push_back(std::move(tensor));
    }
  }
  return out;
}

Result<std::optional<Gguf>> open_gguf(const std::filesystem::path& path) {
  const auto files = TRY(find_gguf(path));
  if (!files) return std::optional<Gguf>();
  return std::optional<Gguf>(TRY(Gguf::open(*files)));
}

Error Gguf::bad(std::string_view key, std::string_view expected) const {
  const GgufValue* value = find(key);
  const std::string found = value == nullptr ? "missing" : shown(*value);
  return invalid_input(label_ + ": " + std::string(key) + ": " + found + ", expected " +
                       std::string(expected));
}

const GgufValue* Gguf::find(std::string_view key) const {
  const auto place = std::ranges::lower_bound(metadata_, key, {}, &GgufEntry::key);
  return place != metadata_.end() && place->key == key ? &place->value : nullptr;
}

bool Gguf::has_tensor(std::string_view name) const {
  return std::ranges::find(tensors_, name, &Tensor::name) != tensors_.end();
}

Result<std::optional<std::uint64_t>> Gguf::count_if_there(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::optional<std::uint64_t>();
  const std::optional<std::int64_t> number = integer_of(value->type, value->bytes);
  if (!number || *number < 0) return bad(key, "a whole number");
  return std::optional<std::uint64_t>(*number);
}

Result<std::uint64_t> Gguf::count(std::string_view key) const {
  const std::optional<std::uint64_t> found = TRY(count_if_there(key));
  if (!found) return bad(key, "a whole number");
  return *found;
}

Result<std::optional<double>> Gguf::number_if_there(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::optional<double>();
  if (value->type == GgufType::kF32 || value->type == GgufType::kF64) {
    const double number = float_of(value->type, value->bytes);
    if (!std::isfinite(number)) return bad(key, "a finite number");
    return std::optional<double>(number);
  }
  const std::optional<std::int64_t> whole = integer_of(value->type, value->bytes);
  if (!whole) return bad(key, "a number");
  return std::optional<double>(static_cast<double>(*whole));
}

Result<std::optional<bool>> Gguf::flag_if_there(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::optional<bool>();
  if (value->type != GgufType::kBool) return bad(key, "true or false");
  return std::optional<bool>(get_little_endian<std::uint8_t>(value->bytes, 0) != 0);
}

Result<std::optional<std::string>> Gguf::text_if_there(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::optional<std::string>();
  if (value->type != GgufType::kString) return bad(key, "text");
  return std::optional<std::string>(as_text(value->bytes));
}

Result<std::vector<std::string_view>> Gguf::texts(std::string_view key) const {
  std::vector<std::string_view> out;
  const GgufValue* value = find(key);
  if (value == nullptr) return out;
  if (value->type != GgufType::kArray || value->element != GgufType::kString) {
    return bad(key, "a list of texts");
  }
  std::size_t at = 0;
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto size = get_little_endian<std::uint64_t>(value->bytes, at);
    out.push_back(as_text(value->bytes.subspan(at + sizeof size, size)));
    at += sizeof size + size;
  }
  return out;
}

Result<std::vector<std::int64_t>> Gguf::integers(std::string_view key) const {
  std::vector<std::int64_t> out;
  const GgufValue* value = find(key);
  if (value == nullptr) return out;
  const std::size_t size = value->type == GgufType::kArray ? value_bytes(value->element) : 0;
  if (size == 0) return bad(key, "a list of whole numbers");
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto number = integer_of(value->element, value->bytes.subspan(i * size, size));
    if (!number) return bad(key, "a list of whole numbers");
    out.push_back(*number);
  }
  return out;
}

Result<std::vector<float>> Gguf::floats(std::string_view key) const {
  std::vector<float> out;
  const GgufValue* value = find(key);
  if (value == nullptr) return out;
  if (value->type != GgufType::kArray || value->element != GgufType::kF32) {
    return bad(key, "a list of float32");
  }
  for (std::uint64_t i = 0; i < value->count; ++i) {
    out.push_back(get_little_endian<float>(value->bytes, i * sizeof(float)));
  }
  return out;
}

}  // namespace conclave::formats
