#include <simdjson.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <unordered_set>
#include <utility>

#include "formats/dtype.h"
#include "formats/formats.h"

namespace conclave::formats {
namespace {

namespace dom = simdjson::dom;

constexpr std::size_t kPrefixBytes = 8;  // the header's length

struct Header {
  std::string_view json;
  std::span<const std::byte> data;  // everything after the header
};

struct Offsets {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

std::string tensor_label(std::string_view label, std::string_view tensor) {
  return std::string(label) + ": " + printable(tensor) + ": ";
}

Result<Header> split_header(std::span<const std::byte> file, const std::string& label) {
  const std::string sizes = "file of " + std::to_string(file.size()) + " bytes";
  if (file.size() < kPrefixBytes) return corrupt(label + ": " + sizes + ", too short for a header");
  std::uint64_t size = 0;
  static_assert(std::endian::native == std::endian::little);
  std::memcpy(&size, file.data(), kPrefixBytes);
  if (size > kHeaderBytesMax) {
    return corrupt(label + ": header of " + std::to_string(size) + " bytes, limit " +
                   std::to_string(kHeaderBytesMax));
  }
  if (size > file.size() - kPrefixBytes) {
    return corrupt(label + ": header of " + std::to_string(size) + " bytes in a " + sizes +
                   ": truncated");
  }
  const std::span<const std::byte> json = file.subspan(kPrefixBytes, size);
  if (json.empty() || json.front() != std::byte{'{'}) {
    return corrupt(label + ": header does not start with '{'");
  }
  return Header{{reinterpret_cast<const char*>(json.data()), json.size()},
                file.subspan(kPrefixBytes + size)};
}

Result<void> check_metadata(const dom::element& value, const std::string& label) {
  dom::object object;
  if (value.get(object) != simdjson::SUCCESS) {
    return corrupt(label + ": __metadata__: expected an object of strings");
  }
  for (const dom::key_value_pair entry : object) {
    if (!entry.value.is_string()) {
      return corrupt(tensor_label(label, "__metadata__." + std::string(entry.key)) +
                     "expected a string");
    }
  }
  return {};
}

Result<std::vector<std::size_t>> read_shape(const dom::element& value, const std::string& where) {
  dom::array array;
  if (value.get(array) != simdjson::SUCCESS) return corrupt(where + "shape is not a list");
  std::vector<std::size_t> shape;
  for (const dom::element element : array) {
    std::uint64_t size = 0;
    if (element.get(size) != simdjson::SUCCESS) {
      return corrupt(where + "shape holds something else than whole numbers");
    }
    if (shape.size() == kDimensionsMax) {
      return corrupt(where + "more than " + std::to_string(kDimensionsMax) + " dimensions");
    }
    shape.push_back(size);
  }
  return shape;
}

Result<Offsets> read_offsets(const dom::element& value, const std::string& where) {
  dom::array array;
  const Error bad = corrupt(where + "data_offsets is not a list of two whole numbers");
  if (value.get(array) != simdjson::SUCCESS || array.size() != 2) return bad;
  Offsets offsets;
  if (array.at(0).get(offsets.begin) != simdjson::SUCCESS) return bad;
  if (array.at(1).get(offsets.end) != simdjson::SUCCESS) return bad;
  return offsets;
}

// Bytes of `shape` elements, or nothing when that does not fit 64 bits.
std::optional<std::uint64_t> byte_count(std::span<const std::size_t> shape, DType dtype) {
  std::uint64_t count = size_bytes(dtype);
  for (const std::size_t dimension : shape) {
    if (__builtin_mul_overflow(count, dimension, &count)) return std::nullopt;
  }
  return count;
}

// One entry of the header: exactly the three known fields, each once.
Result<Tensor> read_tensor(const dom::key_value_pair& entry, std::span<const std::byte> data,
                           const std::string& label) {
  const std::string where = tensor_label(label, entry.key);
  if (entry.key.empty() || entry.key.size() > kNameBytesMax) {
    return corrupt(where + "name of " + std::to_string(entry.key.size()) +
                   " bytes, expected 1 to " + std::to_string(kNameBytesMax));
  }
  dom::object object;
  if (entry.value.get(object) != simdjson::SUCCESS) return corrupt(where + "expected an object");

  std::optional<DType> dtype;
  std::optional<std::vector<std::size_t>> shape;
  std::optional<Offsets> offsets;
  for (const dom::key_value_pair field : object) {
    if (field.key == "dtype" && !dtype) {
      std::string_view text;
      if (field.value.get(text) != simdjson::SUCCESS) return corrupt(where + "dtype is not text");
      dtype = parse_dtype(text);
      if (!dtype) return unsupported(where + "dtype \"" + printable(text) + "\" is not known");
    } else if (field.key == "shape" && !shape) {
      shape = TRY(read_shape(field.value, where));
    } else if (field.key == "data_offsets" && !offsets) {
      offsets = TRY(read_offsets(field.value, where));
    } else {
      return corrupt(where + "field \"" + printable(field.key) + "\" is doubled or not known");
    }
  }
  if (!dtype || !shape || !offsets) {
    return corrupt(where + "expected dtype, shape and data_offsets");
  }

  const std::string range =
      "[" + std::to_string(offsets->begin) + ", " + std::to_string(offsets->end) + ")";
  if (offsets->begin > offsets->end || offsets->end > data.size()) {
    return corrupt(where + "data_offsets " + range + " in a file with " +
                   std::to_string(data.size()) + " data bytes");
  }
  const std::optional<std::uint64_t> expected = byte_count(*shape, *dtype);
  if (!expected || *expected != offsets->end - offsets->begin) {
    return corrupt(where + "data_offsets " + range + " hold " +
                   std::to_string(offsets->end - offsets->begin) + " bytes, expected " +
                   (expected ? std::to_string(*expected) : "more than 2^64") + " for " +
                   std::string(name(*dtype)) + " " + shape_text(*shape));
  }
  return Tensor{std::string(entry.key), *dtype, std::move(*shape),
                data.subspan(offsets->begin, *expected), nullptr};
}

// Every byte of the data belongs to exactly one tensor.
Result<void> check_coverage(std::span<const Tensor> tensors, std::span<const std::byte> data,
                            const std::string& label) {
  const auto offset = [&data](const Tensor& tensor) {
    return static_cast<std::size_t>(tensor.bytes.data() - data.data());
  };
  std::vector<const Tensor*> order(tensors.size());
  std::ranges::transform(tensors, order.begin(), [](const Tensor& t) { return &t; });
  std::ranges::sort(order, [&offset](const Tensor* a, const Tensor* b) {
    return std::pair(offset(*a), a->bytes.size()) < std::pair(offset(*b), b->bytes.size());
  });
  std::size_t covered = 0;
  const Tensor* previous = nullptr;
  for (const Tensor* tensor : order) {
    const std::string place = "starts at data byte " + std::to_string(offset(*tensor));
    if (offset(*tensor) < covered) {
      return corrupt(tensor_label(label, tensor->name) + place + ", overlaps " +
                     printable(previous->name));
    }
    if (offset(*tensor) > covered) {
      return corrupt(tensor_label(label, tensor->name) + place + ", expected " +
                     std::to_string(covered) + ": bytes that belong to no tensor");
    }
    covered += tensor->bytes.size();
    previous = tensor;
  }
  if (covered != data.size()) {
    return corrupt(label + ": " + std::to_string(data.size() - covered) +
                   " bytes after the last tensor belong to no tensor");
  }
  return {};
}

Result<void> check_unique(std::span<const Tensor> tensors, const std::string& label) {
  std::unordered_set<std::string_view> names;
  names.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      return corrupt(tensor_label(label, tensor.name) + "named twice in the header");
    }
  }
  return {};
}

}  // namespace

Result<std::vector<Tensor>> parse_safetensors(std::span<const std::byte> file,
                                              std::string_view label_text) {
  const std::string label(label_text);
  const Header header = TRY(split_header(file, label));
  dom::parser parser(kHeaderBytesMax);
  dom::object object;
  const simdjson::error_code error =
      parser.parse(header.json.data(), header.json.size(), /*realloc_if_needed=*/true).get(object);
  if (error != simdjson::SUCCESS) {
    return corrupt(label + ": header is not a JSON object: " + simdjson::error_message(error));
  }

  std::vector<Tensor> tensors;
  bool has_metadata = false;
  for (const dom::key_value_pair entry : object) {
    if (entry.key == "__metadata__") {
      if (has_metadata) return corrupt(label + ": __metadata__: named twice in the header");
      has_metadata = true;
      TRY(check_metadata(entry.value, label));
      continue;
    }
    if (tensors.size() == kTensorsMax) {
      return corrupt(label + ": more than " + std::to_string(kTensorsMax) + " tensors");
    }
    tensors.push_back(TRY(read_tensor(entry, header.data, label)));
  }
  TRY(check_unique(tensors, label));
  TRY(check_coverage(tensors, header.data, label));
  return tensors;
}

}  // namespace conclave::formats
