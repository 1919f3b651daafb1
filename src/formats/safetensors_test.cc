#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "formats/formats.h"

namespace conclave::formats {
namespace {

// The bytes of a safetensors file with this header text and `n_data` data bytes 0, 1, 2, ...
std::string file_of(const std::string& header, std::size_t n_data) {
  const std::uint64_t size = header.size();
  std::string file(sizeof size, '\0');
  std::memcpy(file.data(), &size, sizeof size);
  file += header;
  for (std::size_t i = 0; i < n_data; ++i) file += static_cast<char>(i);
  return file;
}

Result<std::vector<Tensor>> parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "x.safetensors");
}

std::string error_of(const std::string& header, std::size_t n_data) {
  const auto parsed = parse(file_of(header, n_data));
  return parsed ? "parsed" : parsed.error().message;
}

const std::string kTwo =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
    R"("b":{"dtype":"U8","shape":[],"data_offsets":[12,13]}}   )";

TEST(Safetensors, ReadsTensorsAndScalars) {
  const std::string file = file_of(kTwo, 13);
  const auto tensors = parse(file);
  ASSERT_TRUE(tensors) << tensors.error().message;
  ASSERT_EQ(tensors->size(), 2u);
  const Tensor& a = tensors->at(0);
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, DType::kBF16);
  EXPECT_EQ(a.shape, (std::vector<std::size_t>{2, 3}));
  EXPECT_EQ(a.bytes.size(), 12u);
  EXPECT_EQ(a.bytes[1], std::byte{1});
  EXPECT_TRUE(tensors->at(1).shape.empty());
  EXPECT_EQ(tensors->at(1).bytes[0], std::byte{12});
}

TEST(Safetensors, AcceptsEmptyTensorsAndAnEmptyFile) {
  EXPECT_EQ(error_of("{}", 0), "parsed");
  EXPECT_EQ(error_of(R"({"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},)"
                     R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                     4),
            "parsed");
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const std::string file = file_of(kTwo, 13);
  for (std::size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(parse(file.substr(0, size))) << size;
  }
  EXPECT_FALSE(parse(file + "x"));
}

TEST(Safetensors, NamesTensorFoundAndExpected) {
  EXPECT_EQ(error_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
            "x.safetensors: a: data_offsets [0, 4) hold 4 bytes, expected 8 for F32 [2]");
  EXPECT_EQ(error_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                     R"("b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
                     6),
            "x.safetensors: b: starts at data byte 2, overlaps a");
  EXPECT_EQ(error_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})", 5),
            "x.safetensors: a: starts at data byte 1, expected 0: bytes that belong to no tensor");
  EXPECT_EQ(error_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5),
            "x.safetensors: 1 bytes after the last tensor belong to no tensor");
  EXPECT_EQ(error_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3),
            "x.safetensors: a: data_offsets [0, 4) in a file with 3 data bytes");
  EXPECT_EQ(error_of(R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}})", 4),
            "x.safetensors: a: dtype \"Q4\" is not known");
  EXPECT_EQ(error_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                     R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                     2),
            "x.safetensors: a: named twice in the header");
}

TEST(Safetensors, RejectsBadHeaders) {
  const std::string name(513, 'n');
  for (const std::string& header : {
           std::string("[]"),
           std::string(" {}"),
           std::string("{"),
           std::string("{}x"),
           std::string(R"({"a":1})"),
           std::string(R"({"__metadata__":{"a":1}})"),
           std::string(R"({"__metadata__":{},"__metadata__":{}})"),
           std::string(R"({"a":{"dtype":"U8","shape":[0]}})"),
           std::string(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}})"),
           std::string(R"({"a":{"dtype":"U8","shape":[0.0],"data_offsets":[0,0]}})"),
           std::string(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}})"),
           std::string(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[1,0]}})"),
           std::string(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}})"),
           std::string(R"({"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
           std::string(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,0],"data_offsets":[0,0]}})"),
           // 2^32 * 2^32 wraps to 0 in 64 bits.
           std::string(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],)"
                       R"("data_offsets":[0,0]}})"),
           R"({")" + name + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
           std::string(R"({"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
       }) {
    EXPECT_NE(error_of(header, 0), "parsed") << header;
  }
}

TEST(Safetensors, RejectsAHeaderLengthBeyondTheLimit) {
  std::string file = file_of("{}", 0);
  const std::uint64_t size = 100'000'001;
  std::memcpy(file.data(), &size, sizeof size);
  ASSERT_FALSE(parse(file));
  EXPECT_NE(parse(file).error().message.find("limit 100000000"), std::string::npos);
}

TEST(Safetensors, ManyTensorsAreFast) {
  std::string header = "{";
  for (int i = 0; i < 50'000; ++i) {
    if (i > 0) header += ',';
    header += "\"model.layers." + std::to_string(i) +
              R"(.w":{"dtype":"U8","shape":[1],"data_offsets":[)" + std::to_string(i) + "," +
              std::to_string(i + 1) + "]}";
  }
  const auto tensors = parse(file_of(header + "}", 50'000));
  ASSERT_TRUE(tensors) << tensors.error().message;
  EXPECT_EQ(tensors->size(), 50'000u);
}

}  // namespace
}  // namespace conclave::formats
