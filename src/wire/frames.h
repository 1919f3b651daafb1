// Frames: a little-endian uint32 length, then so many bytes of one protobuf message.
//
// Pure functions and one incremental reader: no sockets. The bytes are untrusted.
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace conclave::wire {

inline constexpr std::size_t kFrameHeaderSize = 4;
inline constexpr std::size_t kFrameSizeMax = std::size_t{64} << 20;  // of the payload

// Appends `message` as one frame to `out`; kExhausted, and `out` unchanged, above kFrameSizeMax.
Result<void> append_frame(const google::protobuf::MessageLite& message, std::string& out);

// Cuts a byte stream into frames. Holds at most one unfinished frame and what was pushed last.
class FrameReader {
 public:
  void push(std::string_view bytes);

  // The payload of the next whole frame, valid until the next push; nullopt: more bytes are
  // needed. kCorrupt: a length above kFrameSizeMax; every later call says the same.
  Result<std::optional<std::string_view>> next();

  std::size_t held_bytes() const { return buffer_.size() - begin_; }

 private:
  std::string buffer_;
  std::size_t begin_ = 0;  // of the first byte that belongs to no frame handed out
};

// kCorrupt when `payload` is not a Message.
template <class Message>
Result<Message> parse(std::string_view payload) {
  Message message;
  if (!message.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return corrupt("a frame of " + std::to_string(payload.size()) + " bytes is not a " +
                   message.GetTypeName());
  }
  return message;
}

}  // namespace conclave::wire
