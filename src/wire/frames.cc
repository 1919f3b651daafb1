#include "wire/frames.h"

#include <cstdint>

namespace conclave::wire {
namespace {

std::size_t read_length(std::string_view header) {
  std::size_t length = 0;
  for (std::size_t i = 0; i < kFrameHeaderSize; ++i) {
    length |= std::size_t{static_cast<unsigned char>(header[i])} << (8 * i);
  }
  return length;
}

}  // namespace

Result<void> append_frame(const google::protobuf::MessageLite& message, std::string& out) {
  const std::size_t size = message.ByteSizeLong();
  if (size > kFrameSizeMax) {
    return exhausted("a " + message.GetTypeName() + " of " + std::to_string(size) +
                     " bytes is larger than a frame may be (" + std::to_string(kFrameSizeMax) +
                     ")");
  }
  for (std::size_t i = 0; i < kFrameHeaderSize; ++i) {
    out.push_back(static_cast<char>((size >> (8 * i)) & 0xffu));
  }
  CHECK(message.AppendToString(&out));
  return {};
}

void FrameReader::push(std::string_view bytes) {
  // Dropping what was handed out here, and not in next(), keeps the views of next() valid.
  buffer_.erase(0, begin_);
  begin_ = 0;
  buffer_.append(bytes);
}

Result<std::optional<std::string_view>> FrameReader::next() {
  const std::string_view rest = std::string_view(buffer_).substr(begin_);
  if (rest.size() < kFrameHeaderSize) return std::optional<std::string_view>{};
  const std::size_t length = read_length(rest);
  if (length > kFrameSizeMax) {
    return corrupt("a frame says it has " + std::to_string(length) + " bytes; the limit is " +
                   std::to_string(kFrameSizeMax));
  }
  if (rest.size() - kFrameHeaderSize < length) return std::optional<std::string_view>{};
  begin_ += kFrameHeaderSize + length;
  return std::optional(rest.substr(kFrameHeaderSize, length));
}

}  // namespace conclave::wire
